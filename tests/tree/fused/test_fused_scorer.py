"""The tree law for the fused path: values and every gradient equal the padded twin's."""

from collections.abc import Callable
from contextlib import nullcontext

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel
from torch import nn
from tree_batches import deep_batch, template_batch, trained_tail

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.fused import chunks
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.fused.weights import FAMILIES
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorer import Scorer
from loratory.tree.tree import TokenTree

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

VOCAB = 60
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
BATCHES: dict[str, Callable[[], list[TokenSequence]]] = {
    "template": lambda: template_batch(VOCAB),
    "deep": lambda: deep_batch(VOCAB),
    "identical prompts": lambda: [trained_tail([*range(3, 30), t, 5], 27) for t in (40, 41, 42, 40)],
    "nothing shared": lambda: [trained_tail([s, *range(10, 20 + s)], 4) for s in (3, 4, 5)],
    "single": lambda: [trained_tail(list(range(5, 25)), 9)],
    "one predictor": lambda: [trained_tail([7, 8, 9], 2)],
}


class DoubleNorm(nn.Module):
    """RMSNorm in the dtype of its input: the families' own rounds to fp32, which hides 1e-9 behind 1e-7."""

    def __init__(self, norm: nn.Module, offset: float) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (self.weight + self.offset)


def tiny(family: str, dtype: torch.dtype, **changes: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**CONFIG, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.normal_(module.weight, 0.8, 0.2)
            if dtype == torch.float64:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, DoubleNorm(module, 1.0 if family == "gemma" else 0.0))
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model.to(dtype).requires_grad_(False)


def with_lora(model: transformers.PreTrainedModel, **changes: object) -> PeftModel:
    config = {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "lora_dropout": 0.0, **changes}
    adapted = peft.get_peft_model(model, LoraConfig(**config), autocast_adapter_dtype=False).to(model.dtype)
    randomise_b(adapted)
    return adapted.train()


def randomise_b(model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def outcome(scorer: Scorer, model: nn.Module, batch: list[TokenSequence]) -> dict[str, torch.Tensor]:
    """Loss, accuracy, log-probabilities and every gradient of two losses."""
    tree = build_tree(batch, min_saved_tokens=4)
    model.zero_grad()
    result = scorer.nll(tree)
    result.sum_nats.backward()
    out = {"loss": result.sum_nats.detach(), "correct": torch.tensor(result.num_correct)}
    out |= {f"nll {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logprobs = scorer.logprobs(tree)
    (logprobs * torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)).sigmoid().sum().backward()
    out["logprobs"] = logprobs.detach()
    return out | {f"logprobs {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equals_twin(model: PeftModel, batch: list[TokenSequence], tolerance: float) -> None:
    got, want = (outcome(scorer, model, batch) for scorer in (FusedScorer(model), PaddedScorer(model)))
    assert got.keys() == want.keys()
    assert sum("lora" in name for name in want) > 0
    for name, expected in want.items():
        error = float((got[name] - expected).norm() / expected.norm().clamp_min(1e-12))
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family_in_fp64(family: str) -> None:
    assert_equals_twin(with_lora(tiny(family, torch.float64)), deep_batch(VOCAB), 1e-9)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family_in_fp32(family: str) -> None:
    assert_equals_twin(with_lora(tiny(family, torch.float32)), deep_batch(VOCAB), 1e-5)


@pytest.mark.parametrize("batch", sorted(BATCHES))
def test_every_kind_of_batch(batch: str) -> None:
    assert_equals_twin(with_lora(tiny("llama", torch.float64)), BATCHES[batch](), 1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_many_chunks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", 7)
    assert_equals_twin(with_lora(tiny(family, torch.float64)), deep_batch(VOCAB), 1e-9)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["k_proj", "up_proj"], ["gate_proj", "down_proj", "o_proj"]])
def test_some_linears_adapted(targets: list[str]) -> None:
    assert_equals_twin(with_lora(tiny("llama", torch.float64), target_modules=targets), deep_batch(VOCAB), 1e-9)


def test_unequal_ranks_and_scalings() -> None:
    model = with_lora(
        tiny("qwen2", torch.float64),
        rank_pattern={"k_proj": 5, "up_proj": 1},
        alpha_pattern={"v_proj": 16},
        use_rslora=True,
    )
    assert_equals_twin(model, deep_batch(VOCAB), 1e-9)


def test_adapter_on_upper_layers_only() -> None:
    model = with_lora(tiny("llama", torch.float64), target_modules=["q_proj", "down_proj"], layers_to_transform=[2])
    assert_equals_twin(model, deep_batch(VOCAB), 1e-9)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_one_root_for_all_passes_of_a_step(family: str) -> None:
    """Three passes whose trees start alike but branch at different places, one of them with a second root."""
    model = with_lora(tiny(family, torch.float64))
    rows = template_batch(VOCAB, num_rows=9)
    other = trained_tail([9, 8, 7, 6, 5], 2)
    trees = [build_tree(part, min_saved_tokens=4) for part in (rows[:4], rows[4:5], [*rows[5:], other])]
    scorer = FusedScorer(model)
    grads = []
    for is_shared in (False, True):
        model.zero_grad()
        with scorer.one_root(trees) if is_shared else nullcontext():
            losses = [backward(scorer, tree) for tree in trees]
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        grads.append(found | {"loss": torch.stack(losses)})
    for name, expected in grads[0].items():
        error = float((grads[1][name] - expected).norm() / expected.norm())
        assert error < 1e-9, f"{name}: relative error {error:.1e}"


def test_one_root_computes_the_root_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(tiny("llama", torch.float32))
    rows = template_batch(VOCAB)
    trees = [build_tree([row]) for row in rows]
    seen: list[int] = []
    embedding = model.get_input_embeddings()
    scorer = FusedScorer(model)
    embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    with scorer.one_root(trees):
        for tree in trees:
            backward(scorer, tree)
    assert seen == [21, *(tree.num_tokens - 21 for tree in trees)]


def backward(scorer: Scorer, tree: TokenTree) -> torch.Tensor:
    loss = scorer.nll(tree).sum_nats
    loss.backward()
    return loss.detach()
