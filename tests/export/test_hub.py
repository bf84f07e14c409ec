"""What would go to the hub is listed; without a connection nothing is attempted."""

from pathlib import Path

import pytest

from loratory.errors import ConfigError, RunError
from loratory.export.hub import HubFile, hub_files, push_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "trainable.safetensors").write_bytes(b"1")
    return tmp_path


def test_files_without_the_bookkeeping_of_a_run(folder: Path) -> None:
    assert hub_files(folder) == (HubFile("adapter_config.json", 2), HubFile("adapter_model.safetensors", 5))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no weights"):
        hub_files(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        hub_files(tmp_path / "absent")


def test_offline_is_said_before_anything_is_sent(folder: Path) -> None:
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set"):
        push_folder(folder, "me/model", card=None)


def test_a_hub_that_cannot_be_reached_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(RunError, match="could not be reached or refused 'me/model': no route"):
        push_folder(folder, "me/model", card="card")


def test_a_bad_name_is_the_users_to_mend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ConfigError, match="needed is USER/NAME"):
        push_folder(folder, "me/../model name", card=None)
