"""Studies that really train: to the end, killed and resumed, by two workers, halved, with runs that share a base."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loratory.run import read_metrics
from loratory.sweep.candidates import read_candidates
from loratory.sweep.storage import read_trials
from loratory.sweep.study_file import read_study_file
from loratory.sweep.sweep import run_sweep, show_sweep
from loratory.sweep.table import StudyTable

MakeStudy = Callable[..., Path]
SPACE = {"adapter.rank": [2, 4], "train.learning_rate": [0.001, 0.02]}


def run(study: Path, *, resume: bool = False) -> StudyTable:
    return run_sweep(study, resume=resume, note=lambda line: None)


def losses(table: StudyTable) -> dict[str, float | None]:
    return {row.setting: row.value for row in table.rows}


def ended(table: StudyTable, name: str) -> list[tuple[object, object]]:
    lines = read_metrics(table.folder / name / "metrics.jsonl")
    return [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]


@contextmanager
def command(study: Path, sign: Path, pattern: str) -> Iterator[subprocess.Popen[bytes]]:
    """`loratory sweep` in a process of its own, once something of this name is in the folder."""
    words = [sys.executable, "-m", "loratory", "sweep", str(study)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 600
        while not any(sign.glob(pattern)):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def whole(study_in: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """A grid with its control, run to the end, one process at a time."""
    return run(study_in(tmp_path_factory.mktemp("whole"), space=SPACE, control=2))


def test_a_trial_is_an_ordinary_run_directory(whole: StudyTable) -> None:
    assert [row.state for row in whole.rows] == ["complete"] * 4
    for row in whole.rows:
        folder = whole.folder / row.runs[0]
        assert {"config.yaml", "final_model", "metrics.jsonl", "provenance.json"} <= {
            each.name for each in folder.iterdir()
        }
        assert ended(whole, row.runs[0])[-1] == (4, row.value)
    assert whole.rows[0].value == min(row.value for row in whole.rows if row.value is not None)
    assert len(whole.control) == 2
    assert whole.control[0] != whole.control[1]
    assert json.loads((whole.folder / "study.json").read_text())["words"] == list(whole.words)


def test_parallel_trials_and_runs_that_share_a_base_give_the_same_values(
    whole: StudyTable, make_study: MakeStudy
) -> None:
    parallel = run(make_study(name="parallel", space=SPACE, parallel=2, memory_gib=4.0))
    shared = run(make_study(name="shared", space=SPACE, concurrent=True))
    assert losses(parallel) == losses(whole)
    assert losses(shared) == pytest.approx(losses(whole), abs=1e-5)


def test_halving_promotes_from_checkpoints_and_the_survivor_is_the_run_it_would_be_alone(
    make_study: MakeStudy,
) -> None:
    base = {"train.max_steps": 4, "train.eval_steps": 1}
    table = run(make_study(base, space=SPACE, halving={"min_steps": 1, "factor": 2}))
    full = run(make_study(base, name="full", space=SPACE))
    assert [row.state for row in table.rows] == ["complete", "pruned", "pruned", "pruned"]
    assert [row.steps for row in table.rows] == [4, 2, 1, 1]
    assert table.best is not None
    twin = next(row for row in full.rows if row.setting == table.best.setting)
    assert ended(table, table.best.runs[0]) == ended(full, twin.runs[0])
    at_first = {row.setting: ended(full, row.runs[0])[0][1] for row in full.rows}
    first_two = sorted(at_first, key=lambda setting: float(str(at_first[setting])))[:2]
    assert {row.setting for row in table.rows if row.steps > 1} == set(first_two)
    assert "place 2 of 2" in table.rows[1].reason


def test_a_failed_trial_keeps_its_reason_and_the_others_go_on(make_study: MakeStudy) -> None:
    study = make_study(space={"train.learning_rate": [1e30, 0.01]})
    table = run(study)
    assert [row.state for row in table.rows] == ["complete", "failed"]
    assert "the loss is not finite" in table.rows[1].reason
    assert show_sweep(study, note=lambda line: None) == table


@pytest.mark.kill
def test_a_study_killed_in_the_middle_goes_on_as_if_it_had_not_been(
    whole: StudyTable, make_study: MakeStudy, tmp_path: Path
) -> None:
    """kill -9 of the sweep while its second trial trains; its child ends with it, and no row is trained twice."""
    base = {"train.max_steps": 12, "train.eval_steps": 12}
    study = make_study(base, space=SPACE)
    with command(study, tmp_path / "out" / "study" / "trial-001", "checkpoint-*") as process:
        os.kill(process.pid, signal.SIGKILL)
    found = read_candidates(read_study_file(study))
    assert [trial.state for trial in read_trials(found)[0]] == ["complete", "running", "waiting", "waiting"]
    first = tmp_path / "out" / "study" / "trial-000" / "final_model" / "adapter_model.safetensors"
    written_ns = first.stat().st_mtime_ns
    table = run(study, resume=True)
    assert [row.state for row in table.rows] == ["complete"] * 4
    assert first.stat().st_mtime_ns == written_ns
    assert "resuming after step" in (tmp_path / "out" / "study" / "results" / "trial-001.log").read_text()
    unbroken = run(make_study(base, name="unbroken", space=SPACE))
    assert losses(table) == losses(unbroken)


def test_two_workers_share_a_study(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study({"train.max_steps": 6}, space=SPACE, storage=f"sqlite:///{tmp_path / 'shared.db'}")
    with command(study, tmp_path / "out" / "study", "trial-000") as first:
        second = run(study, resume=True)
        assert first.wait() == 0
    table = show_sweep(study, note=lambda line: None)
    assert [row.state for row in table.rows] == ["complete"] * 4
    assert {row.name for row in second.rows} == {row.name for row in table.rows}
