"""Folding: tied embeddings are counted once, and the loss by rounding is what a hand computation gives."""

import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from loratory.adapter.fold import fold_adapter

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([[5, 60, 61, 300, 9, 120, 77, 301]])


def adapted(model: LlamaForCausalLM, targets: list[str], *, ensure_weight_tying: bool = False) -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, ensure_weight_tying=ensure_weight_tying)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return peft_model.eval()


@pytest.mark.parametrize("ensure_weight_tying", [False, True])
def test_tied_embeddings_are_counted_once(tiny_llama: LlamaForCausalLM, ensure_weight_tying: bool) -> None:
    tiny_llama.config.tie_word_embeddings = True
    tiny_llama.lm_head.weight = tiny_llama.model.embed_tokens.weight
    model = adapted(tiny_llama, ["embed_tokens", "q_proj"], ensure_weight_tying=ensure_weight_tying)
    with torch.no_grad():
        expected = model(IDS).logits
        folded = fold_adapter(model, torch.float32)
        torch.testing.assert_close(folded.model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert folded.has_update
    is_shared = folded.model.lm_head.weight is folded.model.model.embed_tokens.weight
    assert is_shared == ensure_weight_tying
    assert folded.model.config.tie_word_embeddings == is_shared
    assert folded.is_untied == (not is_shared)


def test_rounding_loss_by_hand(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama, ["q_proj"])
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    before = layer.get_base_layer().weight.detach().clone()
    delta = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach() * layer.scaling["default"]
    stored = (before + delta).to(torch.bfloat16).float()
    expected = ((stored - before - delta).norm() / delta.norm()).item()
    folded = fold_adapter(model, torch.bfloat16)
    assert folded.rounding_loss["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(expected, rel=1e-3)
    assert set(folded.rounding_loss) == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}
    assert next(folded.model.parameters()).dtype == torch.float32
