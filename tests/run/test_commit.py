import errno
import os
import stat
from pathlib import Path

import pytest
from safetensors import SafetensorError

from loratory.errors import RunError
from loratory.run.commit import publish_directory, storage_fault, write_text


def test_published_directory_is_complete_and_readable_by_others(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text("text")
        (folder / "inner" / "a.txt").chmod(0o600)

    target = tmp_path / "new" / "final_model"
    publish_directory(target, write)
    assert (target / "inner" / "a.txt").read_text() == "text"
    assert stat.S_IMODE((target / "inner" / "a.txt").stat().st_mode) == 0o644
    assert [p.name for p in target.parent.iterdir()] == ["final_model"]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish_directory(tmp_path / "final_model", write)
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_target_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        publish_directory(target, lambda folder: None)
    assert (target / "mine.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(path, "newer")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_an_overwritten_directory_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish_directory(target, fail, overwrite=True)
    assert [p.name for p in target.iterdir()] == ["old"]
    publish_directory(target, lambda folder: (folder / "new").touch(), overwrite=True)
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_storage_faults_are_told_from_other_errors() -> None:
    assert storage_fault(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert storage_fault(SafetensorError("I/O error: File too large (os error 27)")) == "File too large"
    assert storage_fault(SafetensorError("invalid header")) is None
