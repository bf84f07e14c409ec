"""The list of runs: what state each is in, and that nothing but a run in it can be named."""

import json
from pathlib import Path

import pytest

from forged_runs import forge_run
from loratory.errors import InterruptedRunError, NumericsError, RunError
from loratory.run import RunDirectory
from loratory.ui.listing import NO_WORD, RunList, log_end

LABELS = ["a", "b"]


def test_runs_are_listed_and_other_folders_are_not(tmp_path: Path) -> None:
    forge_run(tmp_path / "beta", None, LABELS)
    forge_run(tmp_path / "Alpha", None, LABELS)
    (tmp_path / "data").mkdir()
    (tmp_path / "file.txt").write_text("x")
    forge_run(tmp_path / ".hidden", None, LABELS)
    assert RunList(tmp_path).names() == ("Alpha", "beta")
    assert RunList(tmp_path / "nothing").names() == ()


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", ".", "", "data", "run/../run", "run/", "run\0"])
def test_only_names_of_the_list_lead_anywhere(tmp_path: Path, name: str) -> None:
    forge_run(tmp_path / "runs" / "run", None, LABELS)
    forge_run(tmp_path / "outside", None, LABELS)
    (tmp_path / "runs" / "data").mkdir()
    runs = RunList(tmp_path / "runs")
    for ask in (runs.path, runs.row, runs.metrics, runs.log, runs.config_text):
        with pytest.raises(RunError, match="no run of that name"):
            ask(name)
    assert runs.path("run") == tmp_path / "runs" / "run"


def test_a_run_is_running_while_a_process_holds_its_lock(tmp_path: Path) -> None:
    path = forge_run(tmp_path / "run", None, LABELS, is_finished=False)
    runs = RunList(tmp_path)
    with RunDirectory.open(path):
        assert runs.row("run").state == "running"
        assert runs.row("run").is_alive
        assert runs.row("run", is_stopping=True).state == "stopping"
    assert not runs.row("run").is_alive


def test_how_a_run_ended_is_told(tmp_path: Path) -> None:
    path = forge_run(tmp_path / "run", None, LABELS, is_finished=False)
    runs = RunList(tmp_path)
    assert (runs.row("run").state, runs.row("run").reason) == ("failed", NO_WORD)
    for error, state, reason in (
        (InterruptedRunError("stopped by signal 15 after step 3 of 9", 15), "stopped", "after step 3"),
        (NumericsError("the loss is nan at step 7"), "failed", "nan at step 7"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ):
        with pytest.raises(type(error)), RunDirectory.open(path):
            raise error
        assert runs.row("run").state == state
        assert reason in runs.row("run").reason
    with RunDirectory.open(path):
        pass
    assert (runs.row("run").state, runs.row("run").reason) == ("stopped", "paused")
    (path / "final_model").mkdir()
    assert runs.row("run").state == "finished"


def test_a_run_that_never_began_says_the_last_line_of_its_process(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.yaml").write_text("model: {model_name_or_path: tiny}\ntrain: {seed: 3}\n")
    row = RunList(tmp_path).row("run")
    assert (row.state, row.reason, row.base, row.seed) == ("failed", "it never began", "tiny", "3")
    (path / "output.log").write_text("note: reading\nerror: train.json: no such file\n")
    assert RunList(tmp_path).row("run").reason == "error: train.json: no such file"
    assert RunList(tmp_path).row("run", is_starting=True).state == "starting"


def test_numbers_are_the_latest_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = forge_run(tmp_path / "run", None, LABELS, losses=(), config={"train": {"num_epochs": 4}}, is_finished=False)
    runs = RunList(tmp_path)
    assert runs.row("run").progress is None
    lines = [
        {"step": 1, "epoch": 0.5, "loss": 3.0},
        {"step": 2, "eval_loss": 2.5},
        {"step": 2, "epoch": 1, "loss": 2.0},
    ]
    with (path / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    row = runs.row("run")
    assert (row.latest["step"], row.latest["loss"], row.latest["eval_loss"]) == (2, 2.0, 2.5)
    assert row.progress == 0.25
    assert runs.metrics("run") is runs.metrics("run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('ss": 1.0, "epoch": 2}\n')
    assert runs.row("run").latest["loss"] == 1.0


def test_max_steps_decide_the_progress(tmp_path: Path) -> None:
    forge_run(tmp_path / "run", None, LABELS, config={"train": {"max_steps": 12}}, is_finished=False)
    assert RunList(tmp_path).row("run").progress == 3 / 12


def test_the_log_ends_with_what_a_progress_bar_showed_last(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    assert log_end(log) == ""
    log.write_bytes(b"x" * 50_000 + b"\nfirst\nbar 1\rbar 2\rbar 3\nlast\n")
    assert log_end(log).splitlines()[-3:] == ["first", "bar 3", "last"]
    assert len(log_end(log)) < 25_000
