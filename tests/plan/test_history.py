from pathlib import Path

import pytest

from loratory.engine.forecast.record import Figures, PlanRecord, read_record, write_record
from loratory.plan.history import correction, errors, past_runs


def write(
    folder: Path, name: str, *, peak: int | None, seconds: float | None, machine: str = "m", path: str = "fused"
) -> None:
    (folder / name).mkdir()
    planned = Figures(trainable=10, peak_bytes=100, step_seconds=1.0, final_bytes=7, checkpoint_bytes=9)
    measured = Figures(trainable=10, peak_bytes=peak, step_seconds=seconds, final_bytes=7, checkpoint_bytes=9)
    write_record(folder / name, PlanRecord(machine, path, planned, measured, num_steps=5))


def test_the_factor_is_the_median_of_three_runs_of_the_same_machine_and_path(tmp_path: Path) -> None:
    write(tmp_path, "a", peak=110, seconds=2.0)
    write(tmp_path, "b", peak=120, seconds=None)
    assert correction(past_runs(tmp_path), machine="m", path="fused").memory == 1.0
    write(tmp_path, "c", peak=200, seconds=3.0)
    write(tmp_path, "d", peak=900, seconds=9.0, path="padded")
    write(tmp_path, "e", peak=900, seconds=9.0, machine="other")
    write(tmp_path, "f", peak=None, seconds=None)  # trained together with others
    found = correction(past_runs(tmp_path), machine="m", path="fused")
    assert (found.memory, found.memory_runs) == (1.2, 3)
    assert (found.time, found.time_runs) == (1.0, 0)  # only two of them have a time


def test_runs_that_have_not_ended_or_are_damaged_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "a", peak=110, seconds=2.0)
    record = read_record(tmp_path / "a")
    assert record is not None
    (tmp_path / "b").mkdir()
    write_record(tmp_path / "b", PlanRecord("m", "fused", record.predicted, None))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "plan.json").write_text("{")
    assert [run.name for run in past_runs(tmp_path)] == ["a"]
    assert past_runs(tmp_path)[0].is_exact


def test_errors_are_of_the_forecast() -> None:
    assert errors([2.0, 1.0, 1.25]) == pytest.approx((0.2, 0.5, 0.5))
