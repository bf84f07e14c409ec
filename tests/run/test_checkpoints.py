import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loratory.errors import IntegrityError
from loratory.run.checkpoints import QUARANTINE, CheckpointStore
from loratory.run.stage import STAGE_PREFIX, TRASH_PREFIX

CHANGING_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "os.listdir"}


def writer(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes([step]) * 2000)
        (folder / "state.json").write_text(f'{{"step": {step}}}')

    return write


def commit(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.commit(step, writer(step), identity={"base": "b"}, parent_step=step - 1)


def test_the_newest_is_found_by_step_not_by_time(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run")
    commit(store, 100, 20)
    newest = store.scan().newest
    assert newest is not None
    assert newest.manifest.step == 100


def test_rotation_keeps_the_limit_and_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run")
    commit(store, 1, 2, 3, 4, 5)
    assert store.rotate(keep=2, protect=(1,)) == [2, 3]
    assert store.steps() == [1, 4, 5]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(TRASH_PREFIX)]


@pytest.mark.parametrize("damage", ["bit", "truncated", "missing", "no manifest", "other run", "other step"])
def test_a_damaged_checkpoint_is_skipped_with_its_reason_and_kept_aside(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path, "run")
    commit(store, 1, 2)
    newest = store.path(3)
    if damage == "other run":
        commit(CheckpointStore(tmp_path, "another"), 3)
    elif damage == "other step":
        shutil.copytree(store.path(2), newest)
    else:
        commit(store, 3)
    weights = newest / "weights"
    if damage == "bit":
        weights.write_bytes(b"\x02" + weights.read_bytes()[1:])
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        (newest / "MANIFEST.json").unlink()
    scan = store.recover()
    assert scan.newest is not None
    assert scan.newest.manifest.step == 2
    assert [item.path for item in scan.skipped] == [newest]
    assert scan.skipped[0].reason
    assert store.steps() == [1, 2]
    assert len(list((tmp_path / QUARANTINE).glob("checkpoint-3-*"))) == 1


def test_load_names_another_run(tmp_path: Path) -> None:
    commit(CheckpointStore(tmp_path, "another"), 3)
    with pytest.raises(IntegrityError, match="another run"):
        CheckpointStore(tmp_path, "run").load(3)


@pytest.mark.parametrize("failing_call", range(1, 6))
def test_a_failing_fsync_commits_nothing_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    store = CheckpointStore(tmp_path, "run")
    commit(store, 1)
    calls = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if failing_call < 5:  # three files and their directory; the fifth is the parent, after the rename
        with pytest.raises(OSError, match="Input/output"):
            commit(store, 2)
        assert store.steps() == [1]
    else:
        with pytest.raises(OSError, match="Input/output"):
            commit(store, 2)
    assert store.recover().newest is not None
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(STAGE_PREFIX)]


@pytest.mark.kill
def test_a_kill_at_any_file_operation_of_save_rotate_and_recovery_loses_nothing(tmp_path: Path) -> None:
    """Sweep: a child process is killed at its k-th file operation, for every k, and the recovery too."""
    for k in range(1, 500):
        root = tmp_path / str(k)
        root.mkdir()
        store = CheckpointStore(root, "run")
        commit(store, 1, 2)
        if not _killed(k, lambda store=store: (commit(store, 3), store.rotate(keep=2))):  # type: ignore[misc]
            break
        committed = store.scan().newest
        assert committed is not None
        assert committed.manifest.step in (2, 3)
        _killed(k % 7 + 1, store.recover)
        scan = store.recover()
        assert scan.newest is not None
        assert scan.newest.manifest.step == committed.manifest.step
        assert scan.skipped == ()
        commit(store, 4)
        store.rotate(keep=2)
        assert store.steps()[-1] == 4
        assert len(store.steps()) == 2
        assert not [p for p in root.iterdir() if p.name.startswith((STAGE_PREFIX, TRASH_PREFIX))]
        shutil.rmtree(root)
    assert k > 20  # the sweep did meet the operations of a save


def _killed(at: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that kills itself at its `at`-th file operation; whether it came to that."""
    child = os.fork()
    if child == 0:
        count = 0

        def tick(*_: object) -> None:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event: str, _: tuple[object, ...]) -> None:
            if event in CHANGING_EVENTS:
                tick()

        real = os.fsync

        def fsync(descriptor: int) -> None:
            tick()
            real(descriptor)

        os.fsync = fsync
        sys.addaudithook(hook)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
