"""GGUF files: readable, savable, and tokenised as the file says."""

import struct
from pathlib import Path

import pytest
import torch

from gguf_file import write_gguf
from loratory.config import ModelConfig
from loratory.errors import MissingExtraError, ModelError
from loratory.model import LoadedModel, load_model, load_tokenizer
from loratory.model.gguf import read_pre_tokenizer_name, require_gguf

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def loaded(gguf: Path) -> LoadedModel:
    return load_model(ModelConfig(model_name_or_path=str(gguf)), device="cpu")


def test_loads_as_plain_weights(loaded: LoadedModel, gguf: Path) -> None:
    assert loaded.source == str(gguf)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not hasattr(loaded.model.config, "quantization_config")


def test_saved_folder_gives_the_same_logits(loaded: LoadedModel, tmp_path: Path) -> None:
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again = load_model(ModelConfig(model_name_or_path=str(tmp_path)), device="cpu")
    ids_BT = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(again.model(ids_BT).logits, loaded.model(ids_BT).logits)
    text = "<|im_start|>a 1  12\n x9<|im_end|>"
    assert again.tokenizer(text).input_ids == loaded.tokenizer(text).input_ids


def test_smollm_splits_digits_before_bytes(loaded: LoadedModel) -> None:
    assert loaded.tokenizer.tokenize("12") == ["1", "2"]
    # Without the digit step the two spaces would be split between the word before and the number.
    assert loaded.tokenizer.tokenize("  1") == ["ĠĠ", "1"]
    assert loaded.tokenizer.decode(loaded.tokenizer("a  12 b").input_ids) == "a  12 b"


def test_other_pre_tokenizers_are_left_alone(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(write_gguf(tmp_path / "d.gguf", pre="gpt-2"))))
    assert tokenizer.tokenize("12") == ["12"]


def test_special_tokens_and_template(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_file_inside_a_folder_is_the_same_base(gguf: Path, loaded: LoadedModel) -> None:
    other = load_model(ModelConfig(model_name_or_path=str(gguf.parent), gguf_file=gguf.name), device="cpu")
    assert other.identity == loaded.identity


def test_header_is_read_without_the_library(gguf: Path, tmp_path: Path) -> None:
    assert read_pre_tokenizer_name(gguf) == "smollm"
    assert read_pre_tokenizer_name(write_gguf(tmp_path / "none.gguf", pre=None)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"PK\x03\x04 not gguf at all, but long enough to be read",
        b"GGUF" + struct.pack("<IQQ", 1, 0, 1),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 5000,
    ],
    ids=["empty", "short", "zip", "version", "long key", "kind", "long array", "nested"],
)
def test_broken_headers_are_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf: not a readable GGUF file"):
        read_pre_tokenizer_name(file)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind" * 9], ids=["empty", "text"])
def test_broken_file_does_not_load(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_model(ModelConfig(model_name_or_path=str(file)))


def test_absent_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"loratory\[gguf\]"):
        require_gguf()
