"""Signals that end a process, made to unwind the stack first, as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """A signal that ends the process has come."""


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` inside the block; at its end the process dies of the signal after all.

    Whoever waits for the process sees the signal as ever. A handler that somebody else has set stays, and so does a
    signal that is ignored. Outside the main thread no handler can be set, and none is.
    """
    received: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDING if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if received:  # also when the exception was lost on its way, as in a finalizer
            os.kill(os.getpid(), received[0])
