"""Stages of a longer command: a heading for each, its seconds, and the peak memory of them all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from loratory.engine.peak_memory import process_peak_bytes


class Stages:
    """Prints numbered headings and keeps the time of each stage.

    Attributes:
        seconds: Stage title -> wall-clock seconds, in the order of the stages.
        peak_bytes: Highest mark of the resident set at the end of a stage; training sets the mark back.
    """

    def __init__(self, console: Console, *, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes = 0
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
            self.peak_bytes = max(self.peak_bytes, process_peak_bytes())
