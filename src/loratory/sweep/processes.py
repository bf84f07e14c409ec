"""Processes of a sweep: so many at a time, each with its runs; what dies is reported, what is stopped is saved."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from loratory.engine.signals import StopRequest
from loratory.errors import InterruptedRunError
from loratory.sweep.child import INTERRUPTED, Order, RunResult, is_done, log_of, read_result, work, write_result

_POLL_S = 0.5


class Processes:
    """Runs orders in fresh processes. The libraries are loaded once, in the server that they are forked from.

    Args:
        num: Processes at a time.
    """

    def __init__(self, num: int) -> None:
        self._num = num
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["loratory.sweep.child"])
        self._is_ready = False
        self._running: dict[int, tuple[ForkServerProcess, Order]] = {}

    def run(self, orders: Iterable[Order], *, on_end: Callable[[Order], None]) -> None:
        """Work off the orders; `on_end` is called in this process when one has ended, in whatever order they do.

        Orders are taken one by one as processes become free, so that later ones may depend on earlier ends.

        Raises:
            InterruptedRunError: A signal came; what was running is saved and without a result.
        """
        source: Iterator[Order] = iter(orders)
        is_exhausted = False
        with StopRequest() as signals:
            try:
                while self._running or not is_exhausted:
                    while not is_exhausted and not signals.is_set and len(self._running) < self._num:
                        order = next(source, None)
                        if order is None:
                            is_exhausted = True
                        else:
                            self._start(order)
                    if signals.is_set:
                        break
                    self._wait(on_end)
            finally:
                self._stop()
            if signals.is_set:
                raise InterruptedRunError(
                    "the sweep was stopped; what was running is saved. Go on with --resume.",
                    signals.signal_number or 15,
                )

    def _start(self, order: Order) -> None:
        order.results.mkdir(parents=True, exist_ok=True)
        if not self._is_ready:
            self._is_ready = True
            with _standard_error_in(order.results / "server.log"):
                forkserver.ensure_running()
        process = self._context.Process(target=work, args=(order,))
        process.start()
        self._running[process.sentinel] = (process, order)

    def _wait(self, on_end: Callable[[Order], None]) -> None:
        for sentinel in connection.wait(list(self._running), timeout=_POLL_S):
            assert isinstance(sentinel, int)
            process, order = self._running.pop(sentinel)
            process.join()
            code = process.exitcode or 0
            process.close()
            if code == INTERRUPTED:
                reason = "the run was stopped from outside"
            elif code < 0:
                reason = f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
            else:
                reason = f"the process ended with exit code {code}: {_last_line(order)}"
            for config in order.configs:
                if not is_done(read_result(order.results, config.run.name), order.stop_after_step):
                    write_result(order.results, config.run.name, RunResult("failed", None, 0, reason, 0.0))
            on_end(order)

    def _stop(self) -> None:
        for process, _ in self._running.values():
            process.terminate()
        for process, _ in self._running.values():
            process.join()
        self._running.clear()


@contextmanager
def _standard_error_in(path: Path) -> Iterator[None]:
    """What is started inside writes its complaints there; libraries have some to make when they are loaded."""
    kept, descriptor = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(descriptor)


def _last_line(order: Order) -> str:
    log = log_of(order.results, order.configs[0].run.name)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said} (all of it in {log})"
