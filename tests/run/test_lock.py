"""Who writes a run directory: seen from outside, without disturbing anybody."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loratory.errors import RunError
from loratory.run import Writer, writer_of
from loratory.run.lock import LOCK_NAME, take_lock

HOLD = "import sys, time\nfrom pathlib import Path\nfrom loratory.run.lock import take_lock\ntake_lock(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(600)\n"  # noqa: E501


def test_nobody_writes_what_is_not_locked(tmp_path: Path) -> None:
    assert writer_of(tmp_path) is None
    os.close(take_lock(tmp_path))
    assert writer_of(tmp_path) is None


@pytest.mark.kill
def test_a_writer_is_known_by_its_process_until_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert writer_of(tmp_path) == Writer(process.pid)
        with pytest.raises(RunError, match="another process is writing"):
            take_lock(tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert writer_of(tmp_path) is None
    os.close(take_lock(tmp_path))


def test_a_number_that_another_process_has_now_is_not_believed(tmp_path: Path) -> None:
    descriptor = take_lock(tmp_path)
    try:
        file = tmp_path / LOCK_NAME
        own = json.loads(file.read_text())
        assert writer_of(tmp_path) == Writer(os.getpid())
        for changed in ({"started_s": own["started_s"] - 60}, {"host": f"not-{socket.gethostname()}"}, {"pid": "x"}):
            file.write_text(json.dumps({**own, **changed}))
            assert writer_of(tmp_path) == Writer(None)
        file.write_text("")
        assert writer_of(tmp_path) == Writer(None)
    finally:
        os.close(descriptor)


def test_looking_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    """Somebody who looks all the time and a writer that comes again and again."""
    os.close(take_lock(tmp_path))
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            writer_of(tmp_path)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            os.close(take_lock(tmp_path))
    finally:
        is_over.set()
        for watcher in watchers:
            watcher.join()
