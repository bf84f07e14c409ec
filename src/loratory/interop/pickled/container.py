"""The zip file that `torch.save` writes, checked before anything in it is read.

Entries lie side by side, uncompressed, under one prefix, and only those that torch writes are there. Their CRC is
verified on reading, which torch itself does not do.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from loratory.errors import IntegrityError, UnsafeError
from loratory.interop.pickled.inert import Storage
from loratory.interop.pickled.interpreter import MAX_PICKLE_BYTES

MAX_ENTRIES = 200_000
MAX_SMALL_BYTES = 4096
SLACK_PER_ENTRY_BYTES = 1024
CHUNK_BYTES = 1 << 20
SMALL_ENTRIES = frozenset({"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"})
LOCAL_HEADER_BYTES = 30


class Container:
    """An open, checked file of `torch.save`; a context manager.

    Raises:
        IntegrityError: Not such a file, or a damaged one.
        UnsafeError: A zip file that torch did not write: duplicate, overlapping, compressed or foreign entries.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._size = self._file.seek(0, 2)
            _refuse_other_formats(self._file, self._size)
            try:
                self._zip = zipfile.ZipFile(self._file)
            except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as fault:
                raise IntegrityError(f"a damaged or truncated zip file: {fault}") from fault
            self._entries = self._check_entries()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def program(self) -> bytes:
        """The pickle itself."""
        return b"".join(self._chunks("data.pkl"))

    def storage_chunks(self, storage: Storage) -> Iterator[bytes]:
        """The bytes of a storage.

        Raises:
            IntegrityError: It is missing, or its bytes fail their CRC.
            UnsafeError: Its size is not what the pickle says.
        """
        name = f"data/{storage.key}"
        if name not in self._entries:
            raise IntegrityError(f"entry {name} is missing")
        if self._entries[name].file_size != storage.num_bytes:
            raise UnsafeError(
                f"entry {name} has {self._entries[name].file_size} bytes, but the pickle says "
                f"{storage.num_elements} elements of {storage.kind}, {storage.num_bytes} bytes"
            )
        yield from self._chunks(name)

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._entries[name]) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as fault:
            raise IntegrityError(f"entry {name} is damaged: {fault}") from fault

    def _check_entries(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if not 1 <= len(infos) <= MAX_ENTRIES:
            raise UnsafeError(f"a zip file of {len(infos)} entries; allowed are 1 to {MAX_ENTRIES}")
        prefix, slash, _ = infos[0].filename.partition("/")
        if not slash or prefix in ("", ".", ".."):
            raise UnsafeError(f"entry {infos[0].filename!r} does not lie in a folder, as torch.save would put it")
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.removeprefix(f"{prefix}/")
            if name == info.filename or ".." in info.filename or "\\" in info.orig_filename:
                raise UnsafeError(f"entry {info.filename!r} does not lie in the folder {prefix!r} of the others")
            if name in entries:
                raise UnsafeError(f"entry {info.filename!r} is there twice")
            _check_entry(name, info)
            entries[name] = info
        if "data.pkl" not in entries:
            raise IntegrityError("a zip file without data.pkl; torch.save did not write it")
        self._check_layout(infos)
        if "byteorder" in entries and self._zip.read(entries["byteorder"]) != b"little":
            raise IntegrityError("written on a big-endian machine, which is not supported")
        return entries

    def _check_layout(self, infos: list[zipfile.ZipInfo]) -> None:
        end, total = 0, 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise UnsafeError(f"entry {info.filename!r} overlaps another")
            self._file.seek(info.header_offset)
            header = self._file.read(LOCAL_HEADER_BYTES)
            if len(header) < LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
                raise IntegrityError(f"entry {info.filename!r} has no header at offset {info.header_offset}")
            extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            end = info.header_offset + LOCAL_HEADER_BYTES + extra + info.file_size
            total += info.file_size
        if end > self._size or self._size - total > SLACK_PER_ENTRY_BYTES * (len(infos) + 1):
            raise UnsafeError(f"{self._size} bytes hold entries of {total} bytes: something else lies between them")


def _check_entry(name: str, info: zipfile.ZipInfo) -> None:
    if name.startswith("code/") or name == "constants.pkl":
        raise UnsafeError("a TorchScript archive, which is a program; save the model with torch.save or safetensors")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & ~0x808:
        raise UnsafeError(f"entry {info.filename!r} is compressed or encrypted; torch.save stores it plainly")
    if name == "data.pkl":
        limit = MAX_PICKLE_BYTES
    elif name in SMALL_ENTRIES:
        limit = MAX_SMALL_BYTES
    elif name.removeprefix("data/").isdecimal() and name.startswith("data/"):
        return
    else:
        raise UnsafeError(f"entry {info.filename!r} is none that torch.save writes")
    if info.file_size > limit:
        raise UnsafeError(f"entry {info.filename!r} has {info.file_size} bytes; allowed are {limit}")


def _refuse_other_formats(file: BinaryIO, size: int) -> None:
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return
    words = "not a zip file as torch.save writes"
    if size < 4:
        raise IntegrityError(f"{words}: it has {size} bytes")
    if head[:1] == b"\x80":
        raise UnsafeError(
            f"{words}: a pickle of torch before 1.6, or a bare one. Save it anew where it came from, with torch >= 1.6"
        )
    if head[257:262] == b"ustar":
        raise UnsafeError(f"{words}: a tar archive of torch before 0.4. Save it anew with torch >= 1.6")
    if head.startswith(b"version https://git-lfs"):
        raise IntegrityError(f"{words}: a pointer of git LFS; fetch the real file with 'git lfs pull'")
    if head.lstrip()[:1] in (b"<", b"{"):
        raise IntegrityError(f"{words}: text (a web page or an error message?): {head.lstrip()[:40]!r}")
    raise IntegrityError(f"{words}: it starts with {head[:8]!r}")
