"""Fusing an adapter for decoding: same answers, and weights that come back bit for bit."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from loratory.errors import AdapterError
from loratory.infer.fusion import FusedAdapter, fusion_obstacle

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def adapted(model: LlamaForCausalLM, *, use_dora: bool = False, targets: str | list[str] = "all-linear") -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, use_dora=use_dora)
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return peft_model.eval()


@pytest.mark.parametrize("use_dora", [False, True])
def test_switching_restores_every_bit(tiny_llama: LlamaForCausalLM, use_dora: bool) -> None:
    model = adapted(tiny_llama, use_dora=use_dora)
    ids = torch.arange(20).unsqueeze(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(ids).logits
        fused = FusedAdapter(model)
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
        name = next(name for name in before if "q_proj.base" in name)
        assert not torch.equal(model.state_dict()[name], before[name])
        for _ in range(3):
            fused.off()
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert torch.equal(model(ids).logits, expected)
            with model.disable_adapter():
                assert not torch.allclose(model(ids).logits, expected)
            fused.on()
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_base_weights_can_be_let_go(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        expected = model(ids).logits
        fused = FusedAdapter(model, keep_base=False)
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(AdapterError, match="cannot be switched off"):
        fused.off()


def test_sixteen_bit_weights_are_not_fused(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama.to(torch.bfloat16))
    assert "bfloat16" in str(fusion_obstacle(model))
    with pytest.raises(AdapterError, match="bfloat16"):
        FusedAdapter(model)


def test_tied_adapted_embedding_is_not_fused(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.config.tie_word_embeddings = True
    tiny_llama.lm_head.weight = tiny_llama.model.embed_tokens.weight
    with pytest.warns(UserWarning, match="tie_word_embeddings"):
        model = adapted(tiny_llama, targets=["embed_tokens", "q_proj"])
    assert "tied" in str(fusion_obstacle(model))


def test_only_lora_is_fused(tiny_llama: LlamaForCausalLM) -> None:
    model = get_peft_model(tiny_llama, IA3Config(task_type="CAUSAL_LM"))
    assert fusion_obstacle(model) == "only LoRA adds to the weights and nothing else"
