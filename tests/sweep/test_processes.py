"""Processes that end in every way: well, with a code, killed, stopped; and a sweep that is stopped."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from loratory.config import RunConfig
from loratory.errors import InterruptedRunError
from loratory.sweep import processes
from loratory.sweep.child import Order, RunResult, read_result
from loratory.sweep.processes import Processes
from sweep.obedient import obey

pytestmark = pytest.mark.kill
MakeOrder = Callable[[str], Order]


@pytest.fixture
def make_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeOrder:
    monkeypatch.setattr(processes, "work", obey)

    def make(name: str) -> Order:
        config = RunConfig.model_validate(
            {"model": {"model_name_or_path": "m"}, "data": {"train": "rows.json"}, "run": {"name": name}}
        )
        return Order((config,), tmp_path, None, "eval_loss", None)

    return make


def test_every_end_leaves_a_result_and_hurts_no_other(make_order: MakeOrder, tmp_path: Path) -> None:
    ended: list[str] = []
    names = ["well-1", "code", "killed", "raises", "well-2"]
    Processes(2).run(map(make_order, names), on_end=lambda order: ended.append(order.configs[0].run.name))
    found = {name: read_result(tmp_path, name) for name in names}
    assert sorted(ended) == sorted(names)
    assert found["well-1"] == found["well-2"] == RunResult("complete", 1.5, 3, "", 0.1)
    reasons = {name: result.reason for name, result in found.items() if result is not None}
    assert reasons["killed"] == "killed by signal 9 (out of memory?)"
    assert "exit code 3" in reasons["code"]
    assert reasons["raises"].startswith("the process ended with exit code 1: ValueError: rows without end (all of it")


def test_a_signal_stops_what_runs_and_takes_no_more(make_order: MakeOrder, tmp_path: Path) -> None:
    taken: list[str] = []

    def orders() -> object:
        for name in ("slow-1", "slow-2"):
            taken.append(name)
            yield make_order(name)

    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(InterruptedRunError, match="Go on with --resume"):
        Processes(1).run(orders(), on_end=lambda order: None)  # type: ignore[arg-type]
    timer.join()
    assert taken == ["slow-1"]
    assert read_result(tmp_path, "slow-1") is None
