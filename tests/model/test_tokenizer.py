"""The tokenizer's padding policy, and loading it alone."""

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model import load_tokenizer


def load(folder: Path):
    return load_tokenizer(ModelConfig(model_name_or_path="unused/model", tokenizer_name_or_path=str(folder)))


def save(tokenizer: PreTrainedTokenizerFast, folder: Path, **special: str | None) -> Path:
    """A copy of the tokenizer that declares only the special tokens given."""
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)
    bare.save_pretrained(folder)
    return folder


def test_declared_pad_stays(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    assert load(save(tiny_tokenizer, tmp_path, eos_token="</s>", pad_token="<|im_end|>")).pad_token == "<|im_end|>"


def test_existing_pad_entry_is_used(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    loaded = load(save(tiny_tokenizer, tmp_path, eos_token="</s>"))
    assert loaded.pad_token == "<pad>"
    assert len(loaded) == len(tiny_tokenizer)


def test_unknown_token_before_stop_token(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratory.model.tokenizer.PAD_NAMES", ())
    loaded = load(save(tiny_tokenizer, tmp_path / "a", eos_token="</s>", unk_token="<|im_start|>"))
    assert loaded.pad_token == "<|im_start|>"
    assert load(save(tiny_tokenizer, tmp_path / "b", eos_token="</s>")).pad_token == "</s>"


def test_template_survives_and_no_loading_options_are_kept(tiny_llama_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(tiny_llama_dir)))
    assert tokenizer.chat_template is not None
    tokenizer.save_pretrained(tmp_path)
    assert "local_files_only" not in (tmp_path / "tokenizer_config.json").read_text()


def test_folder_without_tokenizer(tiny_llama_dir: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_llama_dir / "config.json", tmp_path)
    with pytest.raises(ModelError, match=r"no usable tokenizer.*model\.tokenizer_name_or_path"):
        load_tokenizer(ModelConfig(model_name_or_path=str(tmp_path)))
