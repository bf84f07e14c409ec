"""Safetensors files read and written tensor by tensor, with positioned reads instead of a memory map.

A mapped file counts as resident memory as it is read; here only what is asked for is in memory. The format is 8 bytes
of header length, a JSON header, and the data (https://github.com/huggingface/safetensors).
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.errors import IntegrityError

MAX_HEADER_BYTES = 100 << 20
CHUNK_BYTES = 8 << 20
INDEX_NAME = "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: Its shard.
        code: The format's name of its number type, "BF16".
        shape: Its shape.
        offset: First byte in the file.
        num_bytes: Its size.
    """

    file: Path
    code: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers that can be computed with."""
        return self.code in DTYPES and DTYPES[self.code].is_floating_point


class ShardReader:
    """The tensors of a model's safetensors files.

    Args:
        files: The files.

    Raises:
        IntegrityError: A header that lies, or a tensor that two files hold.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            for name, tensor in read_header(file).items():
                if name in self.tensors:
                    raise IntegrityError(f"{file}: tensor {name!r} is in {self.tensors[name].file.name} too")
                self.tensors[name] = tensor

    def float32(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """A floating point tensor, or rows of it, in float32; converted piece by piece."""
        shape, row = self.tensors[name].shape, _row(self.tensors[name].shape)
        start, stop, _ = (rows or slice(None)).indices(shape[0] if shape else 1)
        result = torch.empty((stop - start) * row, dtype=torch.float32)
        done = 0
        for block in self.blocks(name, start * row, stop * row):
            result[done : done + block.numel()] = block
            done += block.numel()
        return result.view((stop - start, *shape[1:]) if shape else ())

    def blocks(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """The numbers `start` to `stop` of a floating point tensor, in its own format, flat and piece by piece."""
        stored = self.tensors[name]
        dtype = DTYPES[stored.code]
        stop = math.prod(stored.shape) if stop is None else stop
        step = max(1, CHUNK_BYTES // dtype.itemsize)
        with stored.file.open("rb", buffering=0) as file:
            for first in range(start, stop, step):
                piece = torch.empty(min(step, stop - first), dtype=dtype)
                _read_into(file.fileno(), piece, stored.offset + first * dtype.itemsize)
                yield piece

    def raw(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes as they are stored."""
        stored = self.tensors[name]
        with stored.file.open("rb", buffering=0) as file:
            file.seek(stored.offset)
            left = stored.num_bytes
            while left:
                chunk = file.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise IntegrityError(f"{stored.file} ends within tensor {name!r}")
                left -= len(chunk)
                yield chunk


def read_header(file: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds.

    Raises:
        IntegrityError: The file is no safetensors, or its header and size contradict each other.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            shape = tuple(int(width) for width in entry["shape"])
            if min((0, *shape)) < 0 or not 0 <= start <= end <= size - 8 - length:
                raise ValueError(f"tensor {name!r} reaches outside the file")
            code = entry["dtype"]
            if code in DTYPES and math.prod(shape) * DTYPES[code].itemsize != end - start:
                raise ValueError(f"tensor {name!r} has {end - start} bytes, its shape {shape} needs another number")
            found[str(name)] = StoredTensor(file, str(code), shape, 8 + length + start, end - start)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise IntegrityError(f"{file}: not readable as safetensors ({fault})") from fault
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A tensor to write.

    Attributes:
        code: Its number type.
        shape: Its shape.
        pieces: Makes its content in order: bytes, or tensors of the stored type.
    """

    code: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes | torch.Tensor]]


def write_shard(path: Path, entries: Mapping[str, Entry]) -> int:
    """Write a safetensors file; only one piece of one tensor is in memory at a time.

    Returns:
        Bytes of data.

    Raises:
        IntegrityError: A tensor's pieces are not as long as its shape says.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    sizes = {}
    end = 0
    for name, entry in entries.items():
        sizes[name] = math.prod(entry.shape) * DTYPES[entry.code].itemsize
        start, end = end, end + sizes[name]
        header[name] = {"dtype": entry.code, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(struct.pack("<Q", len(text)) + text))
        for name, entry in entries.items():
            written = 0
            for piece in entry.pieces():
                view = memoryview(piece) if isinstance(piece, bytes) else _bytes_of(piece)
                _write_all(file.fileno(), view)
                written += len(view)
            if written != sizes[name]:
                raise IntegrityError(f"{path}: tensor {name!r} became {written} bytes, {sizes[name]} were announced")
    return end


def write_index(folder: Path, places: Mapping[str, str], total_bytes: int) -> None:
    """Write the index of a sharded model: tensor -> file name, and the bytes of all tensors."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _row(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _read_into(descriptor: int, tensor: torch.Tensor, offset: int) -> None:
    view = _bytes_of(tensor)
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise IntegrityError("a weights file became shorter while it was read")
        view, offset = view[count:], offset + count


def _write_all(descriptor: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(descriptor, view) :]
