"""Sizes counted by hand; peak memory grows with what is held."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from loratory.errors import ConfigError
from loratory.evaluation.memory import macs_measure, peak_measures, size_measures
from loratory.evaluation.speed import Workload

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def test_sizes_by_hand(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 24)
    found = {m.name: m for m in size_measures(tiny_llama, sorted(tmp_path.iterdir()))}
    vocabulary = tiny_llama.config.vocab_size
    weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32 + 2 * vocabulary * 32
    assert found["parameters"].value == weights
    assert found["size_on_disk"].value == 1024
    assert found["size_on_disk"].definition == "weight files: a.safetensors, b.safetensors"
    assert 4 * weights <= found["size_in_memory"].value <= 4 * weights + 1024  # and rotary buffers
    assert found["parameters"].low is None


def test_an_adapters_own_weights(tiny_llama: LlamaForCausalLM) -> None:
    adapted = get_peft_model(tiny_llama, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    found = {m.name: m for m in size_measures(adapted, [])}
    assert found["adapter_parameters"].value == 2 * 2 * 4 * 32


def test_tied_weights_are_counted_once(tiny_llama: LlamaForCausalLM) -> None:
    before = {m.name: m.value for m in size_measures(tiny_llama, [])}
    tiny_llama.lm_head.weight = tiny_llama.model.embed_tokens.weight
    after = {m.name: m.value for m in size_measures(tiny_llama, [])}
    tied = tiny_llama.lm_head.weight.numel()
    assert before["parameters"] - after["parameters"] == tied
    assert before["size_in_memory"] - after["size_in_memory"] == 4 * tied


def test_peak_is_above_rest(tiny_llama: LlamaForCausalLM) -> None:
    peak, beyond = peak_measures(tiny_llama, Workload(64, 4, 8))
    assert peak.name == "peak_memory@prompt=64,new=4,batch=8"
    assert peak.value > 50 << 20  # torch alone
    assert 0 <= beyond.value < peak.value
    with pytest.raises(ConfigError):
        peak_measures(tiny_llama, Workload(512, 2, 1))


def test_macs_name_their_length(tiny_llama: LlamaForCausalLM) -> None:
    assert macs_measure(tiny_llama, num_tokens=64).name == "macs@tokens=64"
