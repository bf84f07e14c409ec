"""The tree law: loss, accuracy and every gradient of the fast paths equal the padded twin's."""

from collections.abc import Callable

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from tree_batches import batches, deep_batch, template_batch, trained_tail

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.eligibility import LINEAR_HEAD_FAMILIES, OWN_HEAD_FAMILIES
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import Scorer
from loratory.tree.tree_scorer import TreeScorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # these are PEFT's
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]

VOCAB = 60
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
GPT2 = {k: COMMON[k] for k in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")} | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
CONFIGS = {
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "ernie4_5": GROUPED,
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma3_text": {**GROUPED, "head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 64},
    "glm": {**GROUPED, "head_dim": 8},
    "glm4": {**GROUPED, "head_dim": 8},
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neox": COMMON,
    "granite": {**GROUPED, "logits_scaling": 2.0, "attention_multiplier": 0.2},
    "helium": {**GROUPED, "head_dim": 8},
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "phi": {**COMMON, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0},
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {**GROUPED, "head_dim": 8},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "seed_oss": {**GROUPED, "head_dim": 8, "attention_dropout": 0.0, "residual_dropout": 0.0},
    "smollm3": GROUPED,
    "starcoder2": {**GROUPED, "residual_dropout": 0.0, "embedding_dropout": 0.0},
}
EXACT_FAMILIES = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3")
"""Families tested to 1e-9; the others round to fp32 somewhere inside whatever their weights are."""

BATCHES: dict[str, Callable[[], list[TokenSequence]]] = {
    "template": lambda: template_batch(VOCAB),
    "deep": lambda: deep_batch(VOCAB),
    "identical prompts": lambda: [trained_tail([*range(3, 30), t, 5], 27) for t in (40, 41, 42, 40)],
    "nothing shared": lambda: [trained_tail([s, *range(10, 20 + s)], 4) for s in (3, 4, 5)],
    "single": lambda: [trained_tail(list(range(5, 25)), 9)],
}


def tiny(family: str, dtype: torch.dtype, *, seed: int = 0) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family])
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)


class ExactRmsNorm(torch.nn.Module):
    """RMSNorm in the dtype of its input. The families' own rounds to fp32, which hides 1e-9 behind 1e-7."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        probe = torch.linspace(1, 2, len(norm.weight), dtype=norm.weight.dtype)
        self.offset = round(
            float((norm(probe) / (probe * probe.square().mean().rsqrt()) - norm.weight).detach().mean())
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (self.weight + self.offset)


def with_exact_norms(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, ExactRmsNorm(module))
    return model


def with_lora(model: transformers.PreTrainedModel) -> PeftModel:
    """LoRA on every linear layer but the head, with B away from zero so that A gets gradients."""
    adapted = peft.get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", lora_dropout=0.0))
    adapted = adapted.to(model.dtype)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return adapted.train()


def gradients(scorer: Scorer, model: torch.nn.Module, batch: list[TokenSequence]) -> dict[str, torch.Tensor]:
    """Loss, accuracy, log-probabilities by sequence and every gradient of a loss made of all of them."""
    model.zero_grad()
    tree = build_tree(batch, min_saved_tokens=4)
    result = scorer.nll(tree)
    result.sum_nats.backward()
    out = {"loss": result.sum_nats.detach(), "correct": torch.tensor(result.num_correct)}
    out |= {f"nll {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    by_sequence = tree.sum_by_sequence(scorer.logprobs(tree))
    (by_sequence * torch.linspace(-1, 2, len(batch), dtype=by_sequence.dtype)).sigmoid().sum().backward()
    out["by sequence"] = by_sequence.detach()
    return out | {f"logprobs {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], tolerance: float) -> None:
    assert got.keys() == want.keys()
    for name, expected in want.items():
        error = float((got[name] - expected).norm() / expected.norm().clamp_min(1e-12))
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_family_in_fp32(family: str) -> None:
    model = with_lora(tiny(family, torch.float32))
    twin = gradients(PaddedScorer(model), model, deep_batch(VOCAB))
    assert sum("lora" in name for name in twin) >= 2 * 2 * 2 * 2
    assert_equal(gradients(TreeScorer(model, reason="test"), model, deep_batch(VOCAB)), twin, 1e-5)


@pytest.mark.parametrize("family", EXACT_FAMILIES)
def test_family_in_fp64(family: str) -> None:
    model = with_lora(with_exact_norms(tiny(family, torch.float64)))
    twin = gradients(PaddedScorer(model), model, deep_batch(VOCAB))
    assert_equal(gradients(TreeScorer(model, reason="test"), model, deep_batch(VOCAB)), twin, 1e-9)


@pytest.mark.parametrize("batch", sorted(BATCHES))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_kind_of_batch(family: str, batch: str) -> None:
    model = with_lora(with_exact_norms(tiny(family, torch.float64)))
    twin = gradients(PaddedScorer(model), model, BATCHES[batch]())
    assert_equal(gradients(TreeScorer(model, reason="test"), model, BATCHES[batch]()), twin, 1e-9)


@settings(max_examples=40, deadline=None)
@given(batch=batches(), min_saved_tokens=st.integers(1, 6))
def test_any_tree(batch: list[TokenSequence], min_saved_tokens: int) -> None:
    model = with_exact_norms(tiny("llama", torch.float64)).requires_grad_(False)
    tree = build_tree(batch, min_saved_tokens=min_saved_tokens)
    embeddings = model.get_input_embeddings().weight.requires_grad_()  # its gradient has all of the tree in it
    results = [scorer.nll(tree) for scorer in (TreeScorer(model, reason="test"), PaddedScorer(model))]
    got, want = (result.sum_nats for result in results)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert results[0].num_correct == results[1].num_correct
    if len(tree.targets_N):
        (got_grad,), (want_grad,) = (torch.autograd.grad(x, embeddings) for x in (got, want))
        torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=1e-9)


def test_every_listed_family_is_tested() -> None:
    assert set(CONFIGS) == LINEAR_HEAD_FAMILIES | OWN_HEAD_FAMILIES
