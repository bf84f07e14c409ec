"""SIGINT and SIGTERM: the first asks the loop to stop at the next step boundary, the second ends the process now."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


class StopRequest:
    """Context in which a signal only sets a flag. Outside the main thread no handler can be set, and none is."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def is_set(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal_number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            # Safe at any moment: what is committed stays committed, and a stage is cleaned at the next start.
            self._restore()
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
            os._exit(128 + number)
        self.signal_number = number
        os.write(2, b"\nStopping after this step and its checkpoint; press again to stop at once.\n")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
