import json
import random
from pathlib import Path

import pytest

from loratory.errors import IntegrityError
from loratory.run.manifest import MANIFEST_NAME, Manifest, describe_files, to_json, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights.safetensors").write_bytes(random.Random(0).randbytes(5000))
    (tmp_path / "state.json").write_text('{"step": 3}')
    manifest = Manifest("run", 3, 2, {"config": "ab"}, describe_files(tmp_path))
    (tmp_path / MANIFEST_NAME).write_text(to_json(manifest))
    return tmp_path


def test_a_sound_directory_verifies(folder: Path) -> None:
    manifest = verify(folder)
    assert (manifest.run_id, manifest.step, manifest.parent_step) == ("run", 3, 2)
    assert manifest.size_bytes == 5000 + 11


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", MANIFEST_NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer"])
def test_damage_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "truncated": content[:-1], "longer": content + b" "}[damage])
    with pytest.raises(IntegrityError, match=name):
        verify(folder)


def test_every_single_bit_flip_is_found(folder: Path) -> None:
    generator = random.Random(1)
    for name in ("weights.safetensors", "state.json", MANIFEST_NAME):
        path = folder / name
        content = path.read_bytes()
        for _ in range(200):
            flipped = bytearray(content)
            flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(IntegrityError):
                verify(folder)
        path.write_bytes(content)
    verify(folder)


def test_an_unknown_schema_says_so(folder: Path) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(IntegrityError, match="schema 99"):
        verify(folder)
