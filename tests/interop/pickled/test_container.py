"""Tricks with the zip file around a pickle."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loratory.errors import IntegrityError, LoratoryError, UnsafeError
from loratory.interop.pickled.container import Container
from loratory.interop.pickled.inert import Storage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(40.0)}, tmp_path / "m.bin")
    return tmp_path / "m.bin"


def rewrite(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> None:
    with zipfile.ZipFile(path) as old:
        entries = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries:
            change(new, name, content)


def read_all(path: Path) -> bytes:
    with Container(path) as container:
        container.program()
        return b"".join(container.storage_chunks(Storage("0", "FloatStorage", 40)))


def test_reads_the_bytes(saved: Path) -> None:
    assert read_all(saved) == torch.arange(40.0).numpy().tobytes()


def keep(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(name, content)


def compress(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(name, content, zipfile.ZIP_DEFLATED)


def add(extra: str) -> Callable[[zipfile.ZipFile, str, bytes], None]:
    def change(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        archive.writestr(name, content)
        if name.endswith("data.pkl"):
            archive.writestr(extra, b"x")

    return change


def drop(part: str) -> Callable[[zipfile.ZipFile, str, bytes], None]:
    def change(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        if not name.endswith(part):
            archive.writestr(name, content)

    return change


def test_a_plain_rewrite_is_fine(saved: Path) -> None:
    rewrite(saved, keep)
    assert len(read_all(saved)) == 160


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (compress, "compressed or encrypted"),
        (add("m/code/x.py"), "TorchScript"),
        (add("m/constants.pkl"), "TorchScript"),
        (add("other/x"), "does not lie in the folder"),
        (add("m/../../x"), "does not lie in the folder"),
        (add("m/run.sh"), "none that torch.save writes"),
        (add("m/data/x"), "none that torch.save writes"),
        (drop("data.pkl"), "without data.pkl"),
        (drop("data/0"), "data/0 is missing"),
    ],
)
def test_entries_that_torch_does_not_write(
    change: Callable[[zipfile.ZipFile, str, bytes], None], words: str, saved: Path
) -> None:
    rewrite(saved, change)
    with pytest.raises(LoratoryError, match=words):
        read_all(saved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_twice(saved: Path) -> None:
    rewrite(saved, add("m/data.pkl"))
    with pytest.raises(UnsafeError, match=r"twice|overlap"):
        read_all(saved)


def test_a_flipped_bit_fails_its_checksum(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    position = content.find(torch.arange(40.0).numpy().tobytes())
    content[position + 17] ^= 4
    saved.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"data/0 is damaged.*CRC"):
        read_all(saved)


def test_bytes_hidden_between_entries(saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:4] + content[4:] + b"")
    directory = content.find(b"PK\x01\x02")
    end = content.rfind(b"PK\x05\x06")
    hidden = b"\0" * 200_000
    moved = bytearray(content[end:])
    moved[16:20] = struct.pack("<I", directory + len(hidden))
    changed = content[:directory] + hidden + content[directory:end] + bytes(moved)
    saved.write_bytes(changed)
    with pytest.raises((UnsafeError, IntegrityError)):
        read_all(saved)


def test_a_size_that_the_pickle_does_not_give(saved: Path) -> None:
    with Container(saved) as container, pytest.raises(UnsafeError, match=r"160 bytes, but the pickle says 41"):
        list(container.storage_chunks(Storage("0", "FloatStorage", 41)))


def tar_bytes() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it has 0 bytes"),
        (b"P", "it has 1 bytes"),
        (b"<!DOCTYPE html><html>", "text .a web page"),
        (b'{"error": "Unauthorized"}', "text .a web page"),
        (b"\x80\x02\x8a\x0alor", "torch before 1.6"),
        (tar_bytes(), "tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git LFS"),
        (b"\x7fELF\x02\x01\x01\x00", "it starts with"),
        (b"PK\x03\x04" + b"\0" * 60, "damaged or truncated"),
    ],
)
def test_other_kinds_of_files(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises((IntegrityError, UnsafeError), match=words):
        Container(tmp_path / "m.bin")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_file(share: float, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(IntegrityError, match="truncated"):
        Container(saved)
