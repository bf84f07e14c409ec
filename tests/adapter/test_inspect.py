"""Describing an adapter from its files, with norms that can be computed by hand."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from loratory.adapter import attach_adapter, describe_adapter, save_adapter
from loratory.adapter.inspect import product_norm
from loratory.config import AdapterConfig

BASE = "b" * 64


def save(model: LlamaForCausalLM, folder: Path, *, value: float = 0.0, **fields: object) -> Path:
    adapted = attach_adapter(model, AdapterConfig(**fields), seed=0).model
    assert isinstance(adapted, PeftModel)
    if value:
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_" in name:
                    parameter.fill_(value)
    save_adapter(adapted, folder, base_identity=BASE)
    return folder


def test_untrained_adapter_has_no_effect(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    card = describe_adapter(save(tiny_llama, tmp_path, rank=4, targets=["q_proj"]))
    assert card.has_no_effect
    assert [layer.norm for layer in card.layers] == [0.0, 0.0]


def test_card(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    card = describe_adapter(save(tiny_llama, tmp_path, value=0.5, rank=4, alpha=12, targets=["q_proj", "v_proj"]))
    assert (card.method, card.rank, card.alpha, card.use_rslora) == ("LoRA", 4, 12, False)
    assert card.targets == ("q_proj", "v_proj")
    assert (card.num_tensors, card.num_parameters) == (8, 896)
    assert card.num_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size > 4 * 896
    assert (card.base_identity, card.is_verified, card.quantization) == (BASE, True, None)
    assert not card.has_no_effect
    # Every entry of B A is 4 * 0.5 * 0.5 = 1, the scale is 12 / 4: the norm of 3 over 32 x 32 entries is 96.
    layer = card.layers[0]
    assert (layer.module, layer.rank, layer.scale) == ("model.layers.0.self_attn.q_proj", 4, 3.0)
    assert layer.norm == pytest.approx(96)


def test_scale_of_rslora_and_patterns(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    fields = {"use_rslora": True, "alpha_pattern": {"v_proj": 2}, "rank_pattern": {"v_proj": 16}}
    card = describe_adapter(save(tiny_llama, tmp_path, rank=4, alpha=6, targets=["q_proj", "v_proj"], **fields))
    assert {layer.module.rsplit(".", 1)[-1]: (layer.rank, layer.scale) for layer in card.layers} == {
        "q_proj": (4, 3.0),
        "v_proj": (16, 0.5),
    }


def test_embedding_and_whole_modules(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    card = describe_adapter(
        save(tiny_llama, tmp_path, rank=2, targets=["embed_tokens"], modules_to_save=["lm_head"], use_dora=False)
    )
    assert card.targets == ("embed_tokens",)
    assert card.modules_to_save == ("lm_head",)
    assert not card.has_no_effect


def test_dora_is_named(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    assert describe_adapter(save(tiny_llama, tmp_path, rank=2, targets=["q_proj"], use_dora=True)).method == "DoRA"


def test_product_norm_equals_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    a_RI, b_OR = torch.randn(3, 7, generator=generator), torch.randn(5, 3, generator=generator)
    assert product_norm(a_RI, b_OR) == pytest.approx((b_OR @ a_RI).double().norm().item(), rel=1e-6)
