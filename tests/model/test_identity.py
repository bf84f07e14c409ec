"""The identity of a base: same bytes, same identity; and only files that really are the model's."""

import json
from pathlib import Path

import pytest
import torch

from loratory.errors import ModelError
from loratory.model.identity import hash_files, hash_state, weight_files


def write_shards(folder: Path, *names: str) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}})
    )


def test_safetensors_take_precedence_over_pickles(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "other.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    assert weight_files(tmp_path) == (tmp_path / "model.safetensors",)


def test_shards_come_from_the_index(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "unused.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    write_shards(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    assert [path.name for path in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]


def test_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, "a.safetensors")
    with pytest.raises(ModelError, match=r"1 of 1 shards are missing: a\.safetensors"):
        weight_files(tmp_path)


def test_shard_outside_the_folder(tmp_path: Path) -> None:
    write_shards(tmp_path, "../a.safetensors")
    with pytest.raises(ModelError, match="not a plain file name"):
        weight_files(tmp_path)


def test_index_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="not an index"):
        weight_files(tmp_path)


def test_hash_ignores_names_and_sees_every_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "z"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    before = hash_files((first, second))
    first.write_bytes(b"two")
    second.write_bytes(b"one")
    assert hash_files((first, second)) == before
    second.write_bytes(b"onf")
    assert hash_files((first, second)) != before


def test_state_hash_sees_values_names_and_formats() -> None:
    def hashed(**tensors: torch.Tensor) -> str:
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return hash_state(module)

    base = hashed(a=torch.ones(2), b=torch.zeros(3))
    assert base == hashed(b=torch.zeros(3), a=torch.ones(2))
    assert base != hashed(a=torch.ones(2), b=torch.zeros(3) + 1e-20)
    assert base != hashed(a=torch.ones(2), c=torch.zeros(3))
    assert base != hashed(a=torch.ones(2, dtype=torch.bfloat16), b=torch.zeros(3))
