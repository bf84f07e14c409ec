"""plan.json: what a run was forecast and what it measured; of runs that share a process, what is their own."""

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from loratory.config import RunConfig
from loratory.engine.forecast.record import read_record
from loratory.engine.together import train_together
from loratory.engine.training import run_training

MakeConfig = Callable[..., RunConfig]


def measured(folder: Path) -> tuple[int | None, float | None, bool]:
    """Peak, seconds a step, and whether numbers and files came out as forecast."""
    record = read_record(folder)
    assert record is not None
    assert record.measured is not None
    names = ("trainable", "final_bytes", "checkpoint_bytes")
    is_exact = all(getattr(record.predicted, name) == getattr(record.measured, name) for name in names)
    return record.measured.peak_bytes, record.measured.step_seconds, is_exact


def test_a_run_of_its_own_records_peak_and_pace(make_config: MakeConfig) -> None:
    result = run_training(make_config({"run.name": "own"}), console=Console(file=io.StringIO()))
    peak, seconds, is_exact = measured(result.run_dir)
    assert peak is not None
    assert peak > 2**20
    assert seconds is not None
    assert is_exact


def test_what_several_runs_used_is_not_recorded_as_the_need_of_one(make_config: MakeConfig) -> None:
    configs = [make_config({"run.name": f"shared-{rank}", "adapter.rank": rank}) for rank in (2, 4)]
    outcomes = train_together(configs, consoles=[Console(file=io.StringIO()) for _ in configs])
    for outcome in outcomes:
        assert outcome.result is not None
        assert measured(outcome.result.run_dir) == (None, None, True)
