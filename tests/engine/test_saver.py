import errno
from pathlib import Path

import pytest
from accelerate import Accelerator

from loratory.engine.ranks import Ranks
from loratory.engine.saver import Saver
from loratory.errors import ResourceError
from loratory.run.checkpoints import CheckpointStore


def full(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def small(folder: Path) -> None:
    (folder / "weights").write_text("weights")


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def saver(tmp_path: Path, warnings: list[str]) -> Saver:
    store = CheckpointStore(tmp_path, "run")
    return Saver(store, ranks=Ranks(Accelerator(cpu=True)), identity={}, keep=2, warn=warnings.append)


def steps(tmp_path: Path) -> list[int]:
    return CheckpointStore(tmp_path, "run").steps()


def test_two_misses_are_survived_and_forgotten(saver: Saver, tmp_path: Path, warnings: list[str]) -> None:
    assert saver.save(1, small)
    for step in (2, 3, 5, 6):
        assert not saver.save(step, full)
        if step == 3:
            assert saver.save(4, small)
    assert len(warnings) == 4
    assert "No space left on device" in warnings[0]
    assert "newest: step 1" in warnings[0]
    assert steps(tmp_path) == [1, 4]
    assert not list(tmp_path.glob(".stage-*"))


def test_the_third_miss_in_a_row_ends_the_run(saver: Saver) -> None:
    saver.save(1, full)
    saver.save(2, full)
    with pytest.raises(ResourceError, match="newest: none"):
        saver.save(3, full)


def test_a_missed_last_save_ends_the_run(saver: Saver) -> None:
    with pytest.raises(ResourceError, match="--resume"):
        saver.save(1, full, is_last=True)


def test_little_room_is_a_miss_before_writing(
    saver: Saver, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.save(1, small)
    monkeypatch.setattr("loratory.run.checkpoints.free_bytes", lambda path: 15)  # 2.2 * 7 bytes are needed
    assert not saver.save(2, small)
    assert "too little free space" in warnings[0]
    monkeypatch.setattr("loratory.run.checkpoints.free_bytes", lambda path: 16)
    assert saver.save(3, small)


def test_a_step_is_not_written_twice(saver: Saver) -> None:
    saver.save(1, small)
    assert saver.save(1, full)


def test_rotation_spares_the_best(saver: Saver, tmp_path: Path) -> None:
    for step in range(1, 6):
        saver.save(step, small, protect=2)
    assert steps(tmp_path) == [2, 4, 5]


def test_other_errors_are_not_swallowed(saver: Saver) -> None:
    def broken(folder: Path) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        saver.save(1, broken)
