"""The identity of a base model: one sha256 over its weights' content, wherever the files lie.

An adapter remembers the identity of the base it was trained on. Names of folders do not enter it, bytes do.
"""

import hashlib
import json
from pathlib import Path

import torch

from loratory.errors import ModelError

CHUNK_BYTES = 8 << 20
SAFE_WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"


def weight_files(folder: Path, gguf_file: str | None = None) -> tuple[Path, ...]:
    """The files that transformers loads the weights from, in order of name.

    Safetensors take precedence over pickled weights, a single file over shards, as in transformers.

    Raises:
        ModelError: An index that cannot be read, or that names a file outside the folder or a missing one.
    """
    if gguf_file is not None:
        return (folder / gguf_file,)
    for name in (SAFE_WEIGHTS, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _indexed_files(index)
    return ()


def hash_files(files: tuple[Path, ...]) -> str:
    """sha256 hex over the sha256 of each file, independent of the files' names."""
    digests = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def hash_state(model: torch.nn.Module) -> str:
    """sha256 hex over names, formats, shapes and bytes of the model's state; for models that came from no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(flat.numpy()))
    return digest.hexdigest()


def _indexed_files(index: Path) -> tuple[Path, ...]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as fault:
        raise ModelError(f"{index}: not an index of weight shards ({type(fault).__name__})") from fault
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index}: shard {name!r} is not a plain file name in the model's folder")
    files = tuple(index.parent / name for name in sorted(names))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelError(f"{index}: {len(missing)} of {len(files)} shards are missing: {', '.join(missing[:5])}")
    return files
