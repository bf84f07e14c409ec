"""Sections checked against a model without weights: combinations that cannot work, and counts of what can."""

import copy
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from loratory.adapter import attach_adapter, check_adapter
from loratory.adapter.check import MOST_DRAWN_NUMBERS, needs_weights
from loratory.config import AdapterConfig, QuantizationConfig
from loratory.errors import AdapterError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
NF4 = QuantizationConfig(load_in_4bit=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def empty(mlp: int = 64) -> PreTrainedModel:
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=mlp))


def empty_gpt2() -> PreTrainedModel:
    with torch.device("meta"):
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=100))


def empty_t5() -> PreTrainedModel:
    with torch.device("meta"):
        return transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=1, num_heads=4, vocab_size=100)
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ["q_prj"]}, r"adapter\.targets: 'q_prj' matches no linear module.*Did you mean 'q_proj'\?"),
        ({"targets": r".*\.nothing$"}, r"adapter\.targets: the expression .* matches no module"),
        ({"modules_to_save": ["lm_hed"]}, r"adapter\.modules_to_save: 'lm_hed' is no module"),
        ({"rank": 3, "init": "orthogonal"}, r"adapter\.init: orthogonal needs an even rank"),
        ({"init": "loftq"}, r"adapter\.init: loftq makes up for the error of 4-bit weights"),
        ({"method": "c3a", "options": {"block_size": 7}}, r"adapter\.method: c3a cannot be put on"),
        ({"method": "boft", "options": {"boft_block_size": 5}}, r"adapter\.method: boft cannot be put on"),
        ({"method": "gralora", "options": {"r": 33, "gralora_k": 3}}, r"adapter\.method: gralora cannot be put on"),
        ({"method": "miss", "options": {"r": 33}}, r"adapter\.method: miss cannot be put on"),
        ({"method": "oft", "options": {"oft_block_size": 24}}, r"adapter\.options: .*oft_block_size 24"),
        ({"method": "oft", "options": {"r": 3, "oft_block_size": 0}}, r"adapter\.options: .*r 3"),
        ({"method": "beft"}, "no layer that beft could adapt; try lora"),
    ],
)
def test_what_cannot_be_attached_is_told_without_weights(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        check_adapter(AdapterConfig(**fields), empty())


@pytest.mark.filterwarnings("ignore:Invalid `oft_block_size`")
def test_a_width_that_no_block_of_oft_divides_would_train_nothing() -> None:
    with pytest.raises(AdapterError, match="would train nothing"):
        check_adapter(AdapterConfig(method="oft"), empty(67))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "full"}, "full fine-tuning cannot be trained on a base in 4 bits; the nearest that can is lora"),
        ({"init": "pissa"}, "pissa changes the base weights and these are quantised"),
    ],
)
def test_quantised_bases(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        check_adapter(AdapterConfig(**fields), empty(), quantization=NF4)


def test_loftq_goes_with_four_bits() -> None:
    assert check_adapter(AdapterConfig(init="loftq"), empty(), quantization=NF4).trainable > 0


def test_an_earlier_adapter_below_a_new_one_needs_no_weights() -> None:
    section = AdapterConfig(path="nowhere", create_new_adapter=True)
    assert check_adapter(section, empty()) == check_adapter(AdapterConfig(), empty())


@pytest.mark.parametrize("method", ["boft", "shira", "unilora"])
def test_index_drawing_methods_are_counted_on_a_large_base_in_little_memory(method: str) -> None:
    with torch.device("meta"):
        large = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                hidden_size=1024, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=4, vocab_size=2**21
            )
        )
    assert sum(p.numel() for p in large.parameters()) > 4e9  # 16 GiB in float32
    section = AdapterConfig(method=method, targets=["q_proj"])
    assert check_adapter(section, large).trainable > 0


def test_weight_reading_methods_are_not_counted_on_a_large_base() -> None:
    with torch.device("meta"):
        large = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**SIZES, "vocab_size": MOST_DRAWN_NUMBERS // 32})
        )
    assert needs_weights("frod", large)
    assert not needs_weights("lora", large)
    with pytest.raises(AdapterError, match="what frod trains follows from the weights' values"):
        check_adapter(AdapterConfig(method="frod"), large)


def test_the_model_is_left_as_it_was() -> None:
    model = empty()
    before = copy.deepcopy(dict(model.named_parameters()))
    check_adapter(AdapterConfig(method="boft"), model)
    assert {name: p.shape for name, p in model.named_parameters()} == {name: p.shape for name, p in before.items()}
    assert all(p.device.type == "meta" for p in model.parameters())


def test_attaching_says_the_same() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=72))
    section = AdapterConfig(method="oft", options={"oft_block_size": 32})
    with pytest.raises(AdapterError, match=r"oft_block_size 32 does not divide the 72 inputs of .*down_proj.*divide 8"):
        attach_adapter(model, section, seed=0)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_kinds_of_models_that_a_method_was_found_unable_to(kind: str) -> None:
    model = {"gpt2": empty_gpt2, "t5": empty_t5}[kind]()
    method = {"gpt2": "oft", "t5": "cpt"}[kind]
    near = {"gpt2": "lora", "t5": "prompt_tuning"}[kind]
    options = {"cpt_token_ids": [5], "cpt_mask": [1], "cpt_tokens_type_mask": [1]} if method == "cpt" else {}
    with pytest.raises(AdapterError, match=f"{method} cannot be trained on .*; the nearest that can is {near}"):
        check_adapter(AdapterConfig(method=method, options=options), model)
