"""What the buttons start: real processes that train, stop, go on, and live on without the page."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from loratory.errors import ConfigError, RunError
from loratory.run import RunDirectory, read_metrics, writer_of
from loratory.ui.jobs import Jobs
from loratory.ui.listing import NO_WORD, RunList
from tiny_run_file import run_file

# A machine under load is no fault of the code.
PATIENCE_S = 600.0
LONG = {"max_steps": 100_000}

pytestmark = pytest.mark.kill


def wait_for(what: Callable[[], bool], log: Path) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, log.read_text() if log.exists() else "nothing was written"
        time.sleep(0.1)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs in an empty folder; what still runs at the end is killed."""
    found = Jobs(RunList(tmp_path / "outputs"))
    yield found
    for process in found._processes.values():
        process.kill()
        process.wait()


def test_a_run_is_started_stopped_and_resumed_to_its_end(jobs: Jobs, tiny_llama_dir: Path, tmp_path: Path) -> None:
    text = run_file(tmp_path, tiny_llama_dir, "long", max_steps=200, save_steps=1000)
    assert jobs.start(text) == "long"
    directory = RunDirectory(tmp_path / "outputs" / "long", "")
    assert jobs.row("long").state in ("starting", "running")
    with pytest.raises(RunError, match="'long' is taken"):
        jobs.start(text)
    wait_for(lambda: jobs.row("long").latest.get("step", 0) >= 3, directory.output_log)
    assert jobs.row("long").state == "running"
    assert jobs.num_alive() == 1
    with pytest.raises(RunError, match="long is running"):
        jobs.resume("long")
    jobs.stop("long")
    jobs.stop("long")  # a second press does not end it without a checkpoint
    wait_for(lambda: not jobs.row("long").is_alive, directory.output_log)
    row = jobs.row("long")
    assert row.state == "stopped"
    assert "everything is saved" in row.reason
    stopped_at = int(row.latest["step"])
    assert (directory.path / f"checkpoint-{stopped_at}").is_dir()
    with pytest.raises(RunError, match="nothing to stop"):
        jobs.stop("long")

    jobs.resume("long")
    wait_for(lambda: jobs.row("long").state == "finished", directory.output_log)
    steps = [line["step"] for line in read_metrics(directory.metrics) if "loss" in line]
    assert steps == list(range(1, 201))
    assert f"resuming after step {stopped_at}" in directory.output_log.read_text()
    wait_for(lambda: jobs.num_alive() == 0, directory.output_log)
    with pytest.raises(RunError, match="long is finished"):
        jobs.resume("long")


def test_what_fails_says_why_and_leaves_its_name_to_the_next_attempt(
    jobs: Jobs, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    text = run_file(tmp_path, tiny_llama_dir, "first")
    (tmp_path / "rows.json").unlink()
    jobs.start(text)
    log = tmp_path / "outputs" / "first" / "output.log"
    wait_for(lambda: not jobs.row("first").is_alive, log)
    row = jobs.row("first")
    assert row.state == "failed"
    assert "rows.json" in row.reason
    assert jobs.start(run_file(tmp_path, tiny_llama_dir, "first")) == "first"


def test_a_wrong_run_file_starts_nothing(jobs: Jobs, tiny_llama_dir: Path, tmp_path: Path) -> None:
    good = run_file(tmp_path, tiny_llama_dir, "first")
    for text in (
        good.replace("first", "../first"),
        good.replace("first", "'first; true'"),
        good.replace("batch_size", "batch_sise"),
        good.replace(str(tmp_path / "rows.json"), ""),
    ):
        with pytest.raises(ConfigError):
            jobs.start(text)
    assert not (tmp_path / "outputs").exists()
    assert jobs.rows() == ()


def test_names_that_are_not_listed_stop_and_resume_nothing(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.yaml").write_text("{}")
    for name in ("../elsewhere", "elsewhere", ""):
        for act in (jobs.stop, jobs.resume):
            with pytest.raises(RunError, match="no run of that name"):
                act(name)


STARTER = """\
import sys, time
from pathlib import Path
from loratory.ui.jobs import Jobs
from loratory.ui.listing import RunList
jobs = Jobs(RunList(Path(sys.argv[1])))
jobs.start(Path(sys.argv[2]).read_text())
print("started", flush=True)
time.sleep(600)
"""


def test_training_survives_the_process_that_started_it(jobs: Jobs, tiny_llama_dir: Path, tmp_path: Path) -> None:
    """The page's process is killed; its terminal's signals do not reach the run; another page stops it."""
    (tmp_path / "run.yaml").write_text(run_file(tmp_path, tiny_llama_dir, "long", **LONG))
    folder = tmp_path / "outputs"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), str(tmp_path / "run.yaml")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    path, log = folder / "long", folder / "long" / "output.log"
    try:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        wait_for(lambda: path.is_dir() and jobs.row("long").latest.get("step", 0) >= 2, log)
        writer = writer_of(path)
        assert writer is not None
        assert writer.pid is not None
        assert os.getsid(writer.pid) == writer.pid != os.getsid(starter.pid)
        os.killpg(starter.pid, signal.SIGINT)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.wait()
        step = jobs.row("long").latest["step"]
        wait_for(lambda: jobs.row("long").latest["step"] >= step + 3, log)
        assert jobs.row("long").state == "running"
        jobs.stop("long")
        wait_for(lambda: jobs.row("long").state == "stopped", log)
        wait_for(lambda: not psutil.pid_exists(writer.pid or 0) or _is_dead(writer.pid), log)
    finally:
        starter.kill()
        starter.communicate()
        left = writer_of(path) if path.is_dir() else None
        if left is not None and left.pid is not None:
            os.kill(left.pid, signal.SIGKILL)


def _is_dead(pid: int | None) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_run_is_failed_and_can_be_resumed(jobs: Jobs, tiny_llama_dir: Path, tmp_path: Path) -> None:
    jobs.start(run_file(tmp_path, tiny_llama_dir, "long", save_steps=2, max_steps=60))
    log = tmp_path / "outputs" / "long" / "output.log"
    wait_for(lambda: jobs.row("long").latest.get("step", 0) >= 5, log)
    (process,) = jobs._processes.values()
    process.kill()
    process.wait()
    row = jobs.row("long")
    assert (row.state, row.reason) == ("failed", NO_WORD)
    jobs.resume("long")
    wait_for(lambda: jobs.row("long").state == "finished", log)
    metrics = read_metrics(tmp_path / "outputs" / "long" / "metrics.jsonl")
    assert [line["step"] for line in metrics if "loss" in line] == list(range(1, 61))
