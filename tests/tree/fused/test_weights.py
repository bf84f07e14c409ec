"""What keeps a model off the fused path, each with the word that says so."""

from collections.abc import Callable

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import LlamaForCausalLM
from tree_batches import template_batch

from loratory.errors import ModelError
from loratory.tree.build import build_tree
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.fused.weights import UnfusableError, fused_refusal, read_layers
from loratory.tree.padded import PaddedScorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT's
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:peft.utils.warning.PeftWarning"),
]

VOCAB = 60


def llama(**changes: object) -> LlamaForCausalLM:
    config = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 2,
        **changes,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()


def adapted(model: LlamaForCausalLM | None = None, **changes: object) -> PeftModel:
    config = LoraConfig(**{"r": 2, "target_modules": "all-linear", "lora_dropout": 0.0, **changes})
    model = peft.get_peft_model(model or llama(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def with_hook() -> PeftModel:
    model = adapted()
    model.get_submodule("base_model.model.model.layers.0").register_forward_hook(lambda *_: None)
    return model


def with_two_adapters() -> PeftModel:
    model = adapted()
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    model.base_model.set_adapter(["default", "second"])
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "trained base": (llama, "is trained, not only LoRA"),
    "dora": (lambda: adapted(use_dora=True), "variant Dora"),
    "lora bias": (lambda: adapted(lora_bias=True), "bias"),
    "bias training": (lambda: adapted(llama(attention_bias=True), bias="all"), "bias' is trained"),
    "head adapted": (lambda: adapted(target_modules=["q_proj", "lm_head"]), "head"),
    "embedding adapted": (lambda: adapted(target_modules=["q_proj", "embed_tokens"]), "is trained, not only LoRA"),
    "module saved": (lambda: adapted(modules_to_save=["norm"]), "is trained, not only LoRA"),
    "two adapters": (with_two_adapters, "several active adapters"),
    "ia3": (
        lambda: peft.get_peft_model(
            llama(),
            peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ),
        "not a linear layer or plain LoRA",
    ),
    "bf16": (lambda: adapted(llama().to(torch.bfloat16)), "bfloat16"),
    "activation": (lambda: adapted(llama(hidden_act="relu")), "relu"),
    "hook": (with_hook, "hooks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    make, words = REFUSED[name]
    model = make()
    refusal = fused_refusal(model)
    assert refusal is not None
    assert words in refusal
    with pytest.raises(ModelError, match="scorer path 'fused'"):
        FusedScorer(model)


def test_plain_lora_is_accepted() -> None:
    assert fused_refusal(adapted()) is None
    assert fused_refusal(llama().requires_grad_(False)) is None


def test_dropout_matters_only_while_it_is_active() -> None:
    model = adapted(lora_dropout=0.1)
    assert fused_refusal(model) is None
    model.eval()
    read_layers(model)
    model.train()
    with pytest.raises(UnfusableError, match="dropout is"):
        read_layers(model)


def test_adapter_state_is_read_for_every_tree() -> None:
    model = adapted()
    scorer, twin = FusedScorer(model), PaddedScorer(model)
    tree = build_tree(template_batch(VOCAB))
    values = []
    for state in ("on", "off", "merged", "on"):
        if state == "merged":
            model.merge_adapter()
        with torch.no_grad():
            if state == "off":
                with model.disable_adapter():
                    got, want = scorer.logprobs(tree), twin.logprobs(tree)
            else:
                got, want = scorer.logprobs(tree), twin.logprobs(tree)
        if state == "merged":
            model.unmerge_adapter()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        values.append(got)
    assert not torch.allclose(values[0], values[1], atol=1e-3)
    torch.testing.assert_close(values[0], values[2], rtol=1e-4, atol=1e-4)


def test_unevenly_pruned_layers() -> None:
    """Head counts and MLP widths that differ by layer, as structured pruning leaves them."""
    model = llama().requires_grad_(False)
    layer = model.model.layers[1]
    for name, rows in (("q_proj", 16), ("k_proj", 8), ("v_proj", 8)):
        setattr(layer.self_attn, name, narrowed(getattr(layer.self_attn, name), rows=rows))
    layer.self_attn.o_proj = narrowed(layer.self_attn.o_proj, columns=16)
    for name in ("gate_proj", "up_proj"):
        setattr(layer.mlp, name, narrowed(getattr(layer.mlp, name), rows=24))
    layer.mlp.down_proj = narrowed(layer.mlp.down_proj, columns=24)
    peft_model = adapted(model)
    tree = build_tree(template_batch(VOCAB))
    sums = []
    for scorer in (FusedScorer(peft_model), PaddedScorer(peft_model)):
        peft_model.zero_grad()
        scorer.nll(tree).sum_nats.backward()
        sums.append({n: p.grad for n, p in peft_model.named_parameters() if p.grad is not None})
    assert sums[0].keys() == sums[1].keys()
    for name, grad in sums[1].items():
        assert float((sums[0][name] - grad).norm() / grad.norm()) < 1e-5, name


def narrowed(linear: nn.Linear, *, rows: int | None = None, columns: int | None = None) -> nn.Linear:
    weight = linear.weight[:rows, :columns]
    out = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    out.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return out
