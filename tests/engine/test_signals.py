import os
import signal
import threading
import time

import pytest

from loratory.engine.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_sets_a_flag(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert not request.is_set
        os.kill(os.getpid(), number)
        assert request.is_set
        assert request.signal_number == number
    assert signal.getsignal(number) == before
    assert "press again" in capfd.readouterr().err


@pytest.mark.kill
def test_the_second_signal_ends_the_process_at_once() -> None:
    child = os.fork()
    if child == 0:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        os._exit(0)
    start_s = time.monotonic()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert time.monotonic() - start_s < 5


def test_no_handler_outside_the_main_thread() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as request:
            seen.append(request.is_set)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
