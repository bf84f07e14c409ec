"""Locating a base model: what is accepted, and how each wrong thing is refused."""

import json
from pathlib import Path

import pytest

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model.source import locate_model, read_config_dict, refuse_hub_adapter


def locate(name: object, **fields: str):
    return locate_model(ModelConfig(model_name_or_path=str(name), **fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "llama-small"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32}))
    return made


def test_folder_is_local(folder: Path) -> None:
    found = locate(folder)
    assert (found.name, found.is_local, found.gguf_file) == (str(folder), True, None)


@pytest.mark.parametrize("name", ["gpt2", "some-owner/some-model_1.5B"])
def test_hub_name_is_not_local(name: str) -> None:
    found = locate(name, revision="v1")
    assert (found.name, found.is_local, found.revision) == (name, False, "v1")


def test_missing_path_names_nearest(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"does not exist.*Did you mean 'llama-small'"):
        locate(folder.parent / "lama-small")


def test_missing_parent_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"parent folder .* does not exist"):
        locate(tmp_path / "no" / "such")


@pytest.mark.parametrize("name", ["../x y", "a/b/c", "bad name!", "nowhere.gguf", "./no-such-folder"])
def test_neither_path_nor_hub_name(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        locate(name)


def test_adapter_folder_is_refused_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta/base"}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"it is an adapter.*'meta/base'.*adapter\.path"):
        locate(tmp_path)


def test_file_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"file of kind \.safetensors"):
        locate(file)


def test_folder_without_config_points_at_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"no config\.json.*model\.gguf_file to one of m\.gguf"):
        locate(tmp_path)


def test_gguf_by_path_and_by_field(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert locate(tmp_path / "m.gguf") == locate(tmp_path, gguf_file="m.gguf")
    assert locate(tmp_path / "m.gguf").label == str(tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["n.gguf", "../m.gguf"])
def test_gguf_field_must_be_a_file_inside(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"no file .* it holds m\.gguf"):
        locate(inner, gguf_file=name)


def test_config_keys_that_choose_code_are_dropped(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "attn_implementation": "attacker/kernel",
                "_attn_implementation_internal": "attacker/kernel",
                "text_config": {"attn_implementation": "attacker/kernel", "hidden_size": 8},
            }
        )
    )
    found = read_config_dict(locate(folder))
    assert "attacker" not in json.dumps(found)
    assert found["text_config"] == {"hidden_size": 8}


def test_config_without_model_type(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        read_config_dict(locate(folder))


def test_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{oops")
    with pytest.raises(ModelError, match="configuration cannot be read"):
        read_config_dict(locate(folder))


def test_unreachable_hub_name_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"no local path and could not be fetched.*HF_HUB_OFFLINE"):
        read_config_dict(locate("no-such-owner/no-such-model"))


def test_hub_adapter_check_passes_when_nothing_is_cached() -> None:
    refuse_hub_adapter(locate("no-such-owner/no-such-model"))
