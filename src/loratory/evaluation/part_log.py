"""What a part of the evaluation has measured so far; one item's failure is noted and the others go on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from loratory.errors import LoratoryError, ResourceError
from loratory.evaluation.measure import Measure
from loratory.evaluation.results import DataUsed, Fault, Part, PartStatus


class PartLog:
    """Gathers measures, data and faults of one part, and publishes the part after each item.

    Args:
        publish: Called with the part as it stands; its status is `partial` until `finish`.
    """

    def __init__(self, publish: Callable[[Part], None]) -> None:
        self._publish = publish
        self._start = time.perf_counter()
        self._measures: list[Measure] = []
        self._data: list[DataUsed] = []
        self._faults: list[Fault] = []
        self.note = ""

    def add(self, measures: Sequence[Measure], data: DataUsed | None = None) -> None:
        """Take measures, and what they were measured on."""
        self._measures += measures
        if data is not None:
            self._data.append(data)

    @contextmanager
    def item(self, on: str) -> Iterator[None]:
        """A piece of the part: an error that a user can expect, or memory running out, is noted and ends it alone."""
        try:
            yield
        except LoratoryError as error:
            self._faults.append(Fault(on, str(error), error.exit_code))
        except (MemoryError, RuntimeError) as error:
            if not _is_exhaustion(error):
                raise
            advice = "use a smaller batch (evaluation.speed_batch_sizes, predict.batch_size) or evaluation.pass_tokens"
            self._faults.append(Fault(on, f"out of memory: {_first_line(error)}; {advice}", ResourceError.exit_code))
        self._publish(self._part("partial"))

    def finish(self) -> Part:
        """The whole part."""
        if not self._faults:
            status: PartStatus = "complete" if self._measures else "skipped"
        else:
            status = "partial" if self._measures else "failed"
        part = self._part(status)
        self._publish(part)
        return part

    def _part(self, status: PartStatus) -> Part:
        seconds = round(time.perf_counter() - self._start, 3)
        return Part(status, seconds, tuple(self._measures), tuple(self._data), tuple(self._faults), self.note)


def _is_exhaustion(error: BaseException) -> bool:
    is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_known or "can't allocate memory" in str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else "no memory left"
