"""What keeps a model off the tree path: exactness is decided here, in one place and in words for the user.

The tree path is exact when a token's computation depends on its path alone. Families are listed by name, because only
a test against the padded twin shows that a family hands the tree through to attention and takes positions as given.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel, PeftType
from transformers import PreTrainedModel

LINEAR_HEAD_FAMILIES = frozenset(
    {
        "ernie4_5",
        "gemma",
        "glm",
        "glm4",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "helium",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "starcoder2",
    }
)
"""Families whose logits are the output embedding of the last hidden state and nothing more."""

OWN_HEAD_FAMILIES = frozenset({"cohere", "gemma3_text", "granite"})
"""Families that scale or cap their logits; the model computes them itself, at predictors only."""


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether and how a model may be computed on a tree.

    Attributes:
        refusal: Why never, or None.
        training_refusal: Why not while training, or None.
        window: Longest path in tokens that attention sees whole, or None without limit.
        has_linear_head: Logits are a linear map of the last hidden state.
    """

    refusal: str | None
    training_refusal: str | None
    window: int | None
    has_linear_head: bool


def eligibility(model: PreTrainedModel | PeftModel) -> Eligibility:
    """Look at a model's family, attention, adapter and dropout."""
    base = base_of(model)
    config = base.config
    family = str(config.model_type)
    return Eligibility(
        refusal=_family_refusal(base) or _adapter_refusal(model),
        training_refusal=_randomness(model, base),
        window=getattr(config, "sliding_window", None),
        has_linear_head=family in LINEAR_HEAD_FAMILIES,
    )


def base_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model, with an adapter's layers inside it if there are any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _family_refusal(base: PreTrainedModel) -> str | None:
    family = str(base.config.model_type)
    if family not in LINEAR_HEAD_FAMILIES | OWN_HEAD_FAMILIES:
        return f"no tree attention for model type '{family}'"
    if getattr(base.config, "attn_logit_softcapping", None) is not None:
        return "attention scores are soft-capped"
    if base.config._attn_implementation == "eager":
        return "eager attention was asked for"
    return None


def _adapter_refusal(model: PreTrainedModel | PeftModel) -> str | None:
    if not isinstance(model, PeftModel):
        return None
    config = model.active_peft_config
    if config.is_prompt_learning:
        return "prompt learning puts tokens of its own in front of each row"
    if config.peft_type == PeftType.XLORA or getattr(config, "alora_invocation_tokens", None):
        return "the adapter looks at whole rows"
    if config.peft_type == PeftType.ADAPTION_PROMPT:
        return "the adapter replaces attention modules whole"
    return None


def _randomness(model: PreTrainedModel | PeftModel, base: PreTrainedModel) -> str | None:
    """Sharing would draw one random number where the padded batch draws one for each sequence."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            kind = "adapter dropout" if "lora_dropout" in name else f"dropout in {name.rpartition('.')[2]}"
            return f"{kind} is {module.p:g}"
    for field in ("attention_dropout", "router_jitter_noise"):
        value = getattr(base.config, field, 0.0)
        if value:
            return f"{field} is {value:g}"
    return None
