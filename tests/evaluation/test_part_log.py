"""One item's failure is noted and the others go on; a bug is not swallowed."""

import pytest
import torch

from loratory.errors import DataError
from loratory.evaluation.measure import exact
from loratory.evaluation.part_log import PartLog
from loratory.evaluation.results import Part


def test_a_failed_item_is_noted_and_the_rest_is_kept() -> None:
    published: list[Part] = []
    log = PartLog(published.append)
    with log.item("first"):
        raise DataError("no such text")
    with log.item("second"):
        log.add([exact("x", 1, "u", "d")])
    assert [(len(part.measures), len(part.faults)) for part in published] == [(0, 1), (1, 1)]
    part = log.finish()
    assert part.status == "partial"
    assert (part.faults[0].on, part.faults[0].reason, part.faults[0].exit_code) == ("first", "no such text", 2)
    assert published[-1] == part


def test_status_of_nothing_and_of_failure_alone() -> None:
    assert PartLog(lambda part: None).finish().status == "skipped"
    log = PartLog(lambda part: None)
    with log.item("x"):
        raise DataError("y")
    assert log.finish().status == "failed"


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_ends_the_item_alone(error: BaseException) -> None:
    log = PartLog(lambda part: None)
    with log.item("batch 64"):
        raise error
    fault = log.finish().faults[0]
    assert fault.exit_code == 5
    assert "smaller batch" in fault.reason


def test_a_bug_is_not_an_item_that_failed() -> None:
    log = PartLog(lambda part: None)
    with pytest.raises(RuntimeError, match="shape"), log.item("x"):
        raise RuntimeError("shape mismatch")
