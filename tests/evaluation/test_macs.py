"""Multiply-accumulates from shapes against torch's own flop counter, which sees the arithmetic."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from conftest import FAMILIES
from loratory.errors import ModelError
from loratory.evaluation.macs import Macs, count_macs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*unauthenticated requests:UserWarning"),
]


def counted_by_torch(model: nn.Module, num_tokens: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(num_tokens)[None] + 7)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_torchs_counter(tiny_model_dir: Callable[[str], Path], family: str) -> None:
    # Eager attention: torch counts its two products, of which the fused CPU kernel shows none.
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir(family), attn_implementation="eager")
    assert count_macs(model, num_tokens=24).total == counted_by_torch(model, 24)


def test_by_hand(tiny_llama: LlamaForCausalLM) -> None:
    per_layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    vocabulary = tiny_llama.config.vocab_size
    assert count_macs(tiny_llama, num_tokens=10) == Macs(10 * (2 * per_layer + 32 * vocabulary), 2 * 2 * 32 * 10**2)


def test_layers_of_different_widths(tiny_llama: LlamaForCausalLM) -> None:
    attention = tiny_llama.model.layers[0].self_attn
    attention.q_proj, attention.o_proj = nn.Linear(32, 16, bias=False), nn.Linear(16, 32, bias=False)
    attention.k_proj, attention.v_proj = nn.Linear(32, 8, bias=False), nn.Linear(32, 8, bias=False)
    tiny_llama.set_attn_implementation("eager")
    assert count_macs(tiny_llama, num_tokens=24).total == counted_by_torch(tiny_llama, 24)


def test_an_adapter_counts_until_it_is_merged(tiny_llama: LlamaForCausalLM) -> None:
    plain = count_macs(tiny_llama, num_tokens=8).total
    adapted = get_peft_model(tiny_llama, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    assert count_macs(adapted, num_tokens=8).total == plain + 8 * 2 * (4 * 32 * 2)
    adapted.merge_adapter()
    assert count_macs(adapted, num_tokens=8).total == plain


def test_weights_that_are_no_linear_layer_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.model.layers[0].mlp.experts = nn.Parameter(torch.zeros(4, 32, 64))
    with pytest.raises(ModelError, match="experts"):
        count_macs(tiny_llama, num_tokens=8)
