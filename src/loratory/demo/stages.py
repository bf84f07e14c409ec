"""Stages of a longer command: a heading for each, its seconds, and the peak memory of the process at the end."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Stages:
    """Prints numbered headings and keeps the time of each stage.

    Attributes:
        seconds: Stage title -> wall-clock seconds, in the order of the stages.
    """

    def __init__(self, console: Console, *, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._total = total

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Print the heading of a stage and time what happens inside the block."""
        self._console.print(f"\n[bold]{len(self.seconds) + 1}/{self._total}  {title}[/bold]")
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[title] = time.perf_counter() - start_s


def peak_memory_bytes() -> int:
    """Return the largest resident set that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
