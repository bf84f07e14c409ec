"""Stages and the processes that hold them: real processes, real signals."""

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from loratory.run.commit import publish_directory
from loratory.run.stage import STAGE_PREFIX, TRASH_PREFIX, clean, discard, staging
from loratory.run.termination import unwound_by_signals

PUBLISHER = """
import signal, sys, time
from pathlib import Path
from loratory.run import publish_directory

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)

def stand_still():
    print("writing", flush=True)
    while True:  # one long sleep might begin just after the signal
        time.sleep(0.1)

class Finalizer:
    def __del__(self):
        stand_still()

def write(stage):
    (stage / "half").write_text("half")
    if sys.argv[2] == "finalizer":  # where an exception is only printed
        Finalizer()
    else:
        stand_still()

publish_directory(Path(sys.argv[1]), write)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A process that is publishing tmp_path/out/target and will not come to its end."""

    def start(how: str = "plain") -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(tmp_path / "out" / "target"), how],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        return process

    return start


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> int:
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_removes_the_stage_and_ends_the_process(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    assert end(start(), number) == -number
    assert names(tmp_path / "out") == []


@pytest.mark.kill
def test_a_signal_that_python_loses_ends_the_process_once_the_target_is_published(start: Start, tmp_path: Path) -> None:
    assert end(start("finalizer"), signal.SIGTERM) == -signal.SIGTERM
    assert names(tmp_path / "out") == ["target"]


@pytest.mark.kill
def test_the_stage_of_a_killed_process_goes_with_the_next_and_that_of_a_living_one_stays(
    start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    living = start()
    (held,) = names(out)
    killed = start()
    end(killed, signal.SIGKILL)
    assert len(names(out)) == 2
    publish_directory(out / "other", lambda stage: None)
    assert names(out) == [held, "other"]
    assert end(living, signal.SIGTERM) == -signal.SIGTERM
    assert names(out) == ["other"]


def test_only_what_nobody_holds_and_bears_our_names_is_cleaned(tmp_path: Path) -> None:
    ours = [f"{prefix}{uuid.uuid4().hex}" for prefix in (STAGE_PREFIX, TRASH_PREFIX)]
    theirs = [".stage-1", ".stage-name", "checkpoint-3"]
    for name in (*ours, *theirs):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    link = tmp_path / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    link.symlink_to(tmp_path / "checkpoint-3")
    with staging(tmp_path) as stage:
        assert names(tmp_path) == sorted([*theirs, link.name, stage.name])
        assert clean(tmp_path) == clean(tmp_path, is_sole_writer=True) == 0
    assert names(tmp_path) == sorted([*theirs, link.name])
    (tmp_path / ours[0]).mkdir()
    assert clean(tmp_path) == 1
    assert (tmp_path / "checkpoint-3" / "file").read_text() == "x"


def test_without_locks_of_directories_only_a_sole_writer_cleans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")  # NFS locks what is open for writing

    monkeypatch.setattr("fcntl.flock", refuse)
    left = tmp_path / f"{STAGE_PREFIX}{uuid.uuid4().hex}"
    left.mkdir()
    publish_directory(tmp_path / "target", lambda stage: None)
    assert names(tmp_path) == [left.name, "target"]
    assert clean(tmp_path, is_sole_writer=True) == 1
    discard(tmp_path / "target")
    assert names(tmp_path) == []


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_a_handler_of_somebody_else_stays(handler: "Callable[..., object] | signal.Handlers") -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with unwound_by_signals():
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_default_is_back_after_the_block() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with unwound_by_signals():
        inside = signal.getsignal(signal.SIGTERM)
        assert callable(inside)
        with unwound_by_signals():  # the outer one ends the process, so that both are unwound
            assert signal.getsignal(signal.SIGTERM) is inside
        assert signal.getsignal(signal.SIGTERM) is inside
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
