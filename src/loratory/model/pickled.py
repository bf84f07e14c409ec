"""Run the limited process that reads a pickled model, and check what it left behind.

Law kept: the pickle is opened by a process with limits on memory and time and with nothing in its environment; this
one only reads that process's safetensors and JSON, and believes neither.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from loratory.errors import IntegrityError, LoratoryError, ModelError, ResourceError, UnsafeError
from loratory.interop.pickled.extract import DESCRIPTION_FILE, REFUSAL_FILE, STORAGES_FILE
from loratory.run.stage import staging

MAX_DESCRIPTION_BYTES = 64 << 20
MIN_CPU_S = 60
BYTES_PER_CPU_S = 50 << 20
CLOCK_PER_CPU = 5
KINDS: dict[str, type[LoratoryError]] = {
    kind.__name__: kind for kind in (UnsafeError, IntegrityError, ModelError, ResourceError)
}
# Only the package and the standard library; no variables of the user's, so no tokens either.
START = (
    "import runpy, sys; sys.path[:] = {path!r}; sys.argv[1:] = {arguments!r}; "
    "runpy.run_module({module!r}, run_name='__main__')"
)
MODULE = "loratory.interop.pickled"


@dataclass(frozen=True, slots=True, eq=False)
class PickledModel:
    """What a pickled model holds, as plain data.

    Attributes:
        place: The file, for errors.
        class_name: Dotted name of its class.
        config: Its config's plain values; not checked.
        attributes: Plain attributes of each submodule by dotted path; not checked.
        tensors: Weights and kept buffers by name.
        shared: For each name the storage and window it is, to tell which weights are one.
        tokenizer_files: Files in `folder` that were the tokenizer.
        folder: Where they lie until the reading is over.
    """

    place: str
    class_name: str
    config: Mapping[str, Any]
    attributes: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, torch.Tensor]
    shared: Mapping[str, tuple[Any, ...]]
    tokenizer_files: tuple[str, ...]
    folder: Path


@contextmanager
def read_pickled(path: Path, scratch: Path) -> Iterator[PickledModel]:
    """Read a model from a file of `torch.save`; tensors and files live as long as the context.

    Args:
        path: The file.
        scratch: A folder with room for a copy of the weights.

    Raises:
        UnsafeError: The file names what no model needs, or would exhaust the machine.
        IntegrityError: It is damaged.
        ModelError: It holds no whole model.
        ResourceError: No space for the copy, or more memory needed than allowed.
    """
    with staging(scratch) as folder:
        _run_limited(path, folder)
        yield _read_extract(path, folder)


@contextmanager
def read_pickled_weights(path: Path, scratch: Path) -> Iterator[Mapping[str, torch.Tensor]]:
    """Read a pickled dict of tensors, such as an adapter's; they live as long as the context.

    Args:
        path: The file.
        scratch: A folder with room for a copy.

    Raises:
        UnsafeError, IntegrityError, ModelError, ResourceError: As for `read_pickled`.
    """
    with staging(scratch) as folder:
        _run_limited(path, folder, kind="weights")
        yield _read_extract(path, folder).tensors


def _run_limited(path: Path, folder: Path, kind: str | None = None) -> None:
    size = path.stat().st_size
    cpu_s = MIN_CPU_S + size // BYTES_PER_CPU_S
    arguments = [str(path.absolute()), str(folder.absolute()), str(cpu_s), str(2 * size + (64 << 20))]
    arguments += [] if kind is None else [kind]
    code = START.format(path=[entry for entry in sys.path if entry], arguments=arguments, module=MODULE)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            cwd=folder,
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=CLOCK_PER_CPU * cpu_s,
            check=False,
        )
    except subprocess.TimeoutExpired as fault:
        raise UnsafeError(f"{path}: reading it took longer than {CLOCK_PER_CPU * cpu_s} s; refused") from fault
    if done.returncode == 0:
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UnsafeError(f"{path}: its reader was stopped by its limits ({name}); no model needs that much")
    _raise_refusal(path, folder, done.stderr.decode(errors="replace"))


def _raise_refusal(path: Path, folder: Path, trace: str) -> None:
    refusal = folder / REFUSAL_FILE
    if not refusal.is_file():
        raise UnsafeError(f"{path}: its reader failed, and nothing of it was used: {trace.strip().splitlines()[-1:]}")
    found = json.loads(refusal.read_text(encoding="utf-8"))
    raise KINDS.get(str(found["kind"]), UnsafeError)(f"{path}: {found['reason']}")


def _read_extract(path: Path, folder: Path) -> PickledModel:
    file = folder / DESCRIPTION_FILE
    if file.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise UnsafeError(f"{path}: its description is larger than {MAX_DESCRIPTION_BYTES >> 20} MiB")
    found = json.loads(file.read_text(encoding="utf-8"))
    shared = {
        name: (window["storage"], window["offset"], tuple(window["shape"]), tuple(window["stride"]))
        for name, window in found["tensors"].items()
    }
    try:
        tensors = _read_tensors(folder / STORAGES_FILE, shared)
    except SafetensorError as fault:
        raise IntegrityError(f"{path}: its extracted weights are damaged: {fault}") from fault
    except IntegrityError as fault:
        raise IntegrityError(f"{path}: {fault}") from fault
    return PickledModel(
        place=str(path),
        class_name=found.get("class", ""),
        config=found.get("config", {}),
        attributes=found.get("attributes", {}),
        tensors=tensors,
        shared=shared,
        tokenizer_files=tuple(found.get("tokenizer_files", ())),
        folder=folder,
    )


def _read_tensors(file: Path, shared: Mapping[str, tuple[Any, ...]]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    storages: dict[str, torch.Tensor] = {}
    with safe_open(file, framework="pt") as stored:
        for name, (key, offset, shape, stride) in shared.items():
            if key not in storages:
                storages[key] = stored.get_tensor(key)
            storage = storages[key]
            last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
            if min((offset, *shape, *stride)) < 0 or (math.prod(shape) and last > storage.numel()):
                raise IntegrityError(f"{name}: reaches outside its storage")
            tensors[name] = storage.as_strided(shape, stride, offset) if math.prod(shape) else storage.new_empty(shape)
    return tensors
