"""Loading a base model: exact weights, no network, and a clear refusal of everything that is not a whole model."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from loratory.config import ModelConfig, QuantizationConfig
from loratory.errors import ModelError, UnsafeError
from loratory.model import load_model


def load(folder: Path, **fields: str):
    return load_model(ModelConfig(model_name_or_path=str(folder), **fields))


@pytest.fixture
def copy_dir(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom"])
def test_families_load_with_the_saved_weights(family: str, tiny_model_dir: Callable[[str], Path]) -> None:
    loaded = load(tiny_model_dir(family))
    ids_BT = torch.arange(5, 25)[None]
    reference = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family), dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids_BT).logits, reference(ids_BT).logits, rtol=0, atol=1e-6)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.tokenizer.pad_token == "<pad>"
    assert len(loaded.identity) == 64


def test_no_network_for_local_folders(tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local model reached for the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load(tiny_llama_dir).source == str(tiny_llama_dir)


def test_dtype_is_obeyed(tiny_llama_dir: Path) -> None:
    assert load(tiny_llama_dir, dtype="bfloat16").model.dtype == torch.bfloat16


def test_attention_is_ours_to_choose(copy_dir: Path) -> None:
    edit_config(copy_dir, attn_implementation="attacker/kernel", _attn_implementation_internal="attacker/kernel")
    assert load(copy_dir).model.config._attn_implementation == "sdpa"


def test_identity_follows_content_not_place(tiny_llama_dir: Path, copy_dir: Path) -> None:
    before = load(copy_dir).identity
    assert before == load(tiny_llama_dir).identity
    weights = load_file(copy_dir / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, copy_dir / "model.safetensors", metadata={"format": "pt"})
    assert load(copy_dir).identity != before


def test_missing_weight_is_an_error_not_a_random_layer(copy_dir: Path) -> None:
    weights = load_file(copy_dir / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing.*up_proj"):
        load(copy_dir)


def test_weight_of_another_shape(copy_dir: Path) -> None:
    edit_config(copy_dir, intermediate_size=48)
    with pytest.raises(ModelError, match=r"cannot be loaded|have another shape"):
        load(copy_dir)


def test_folder_without_weights(copy_dir: Path) -> None:
    (copy_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load(copy_dir)


def test_truncated_safetensors(copy_dir: Path) -> None:
    file = copy_dir / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy_dir)


def test_pickled_weights_of_tensors_only_load(copy_dir: Path, tiny_llama: LlamaForCausalLM) -> None:
    (copy_dir / "model.safetensors").unlink()
    torch.save(tiny_llama.state_dict(), copy_dir / "pytorch_model.bin")
    loaded = load(copy_dir)
    torch.testing.assert_close(loaded.model.state_dict(), tiny_llama.state_dict(), rtol=0, atol=0)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.canary,)


def test_hostile_pickle_is_refused_and_not_run(copy_dir: Path, tmp_path: Path) -> None:
    (copy_dir / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Hostile(tmp_path / "canary")}, copy_dir / "pytorch_model.bin")
    with pytest.raises(UnsafeError, match="more than tensors"):
        load(copy_dir)
    assert not (tmp_path / "canary").exists()


def test_unknown_architecture_suggests(copy_dir: Path) -> None:
    edit_config(copy_dir, model_type="lama")
    with pytest.raises(ModelError, match=r"'lama' is unknown.*Did you mean 'llama'"):
        load(copy_dir)


def test_architecture_that_does_not_generate(copy_dir: Path) -> None:
    edit_config(copy_dir, model_type="vit")
    with pytest.raises(ModelError, match="does not generate text left to right"):
        load(copy_dir)


def test_foreign_code_needs_the_flag(copy_dir: Path) -> None:
    edit_config(copy_dir, model_type="strange", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load(copy_dir)


def test_impossible_config(copy_dir: Path) -> None:
    edit_config(copy_dir, hidden_size=0, num_attention_heads=0)
    with pytest.raises(ModelError):
        load(copy_dir)


def test_tokenizer_of_a_larger_vocabulary(copy_dir: Path, tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.resize_token_embeddings(300)
    tiny_llama.save_pretrained(copy_dir)
    with pytest.raises(ModelError, match="do not belong together"):
        load(copy_dir)


def test_quantised_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="dequantised when it is read"):
        load_model(
            ModelConfig(model_name_or_path=str(tmp_path / "m.gguf")),
            quantization=QuantizationConfig(load_in_4bit=True),
        )
