"""A pass that several models share: each gets the values and gradients it would get alone."""

import copy

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from tree_batches import deep_batch, template_batch, trained_tail

from loratory.tree.build import build_tree
from loratory.tree.fused import chunks
from loratory.tree.fused.joint import joint_hidden
from loratory.tree.fused.scorer import FusedScorer
from loratory.tree.tree import TokenTree

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's

VOCAB = 60
ADAPTERS = (
    LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]),
    LoraConfig(r=7, lora_alpha=5, use_rslora=True, target_modules="all-linear"),
    LoraConfig(r=2, lora_alpha=9, target_modules=["down_proj", "v_proj"]),
)


def models() -> list[PeftModel]:
    """Three adapters with weights other than nothing, in double precision, around the very same base."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=2,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).double()
    shared = {id(parameter): parameter for parameter in base.parameters()}
    made = []
    for adapter in ADAPTERS:
        model = get_peft_model(copy.deepcopy(base, dict(shared)), adapter).double()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
        made.append(model)
    return made


def trees() -> list[TokenTree]:
    return [
        build_tree(template_batch(VOCAB)),
        build_tree(deep_batch(VOCAB)),
        build_tree([trained_tail(list(range(5, 25)), 9)]),
    ]


def gradients(model: PeftModel) -> dict[str, torch.Tensor | None]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("chunk_tokens", [512, 7])
@pytest.mark.parametrize("chosen", [(0, 1, 2), (2, 0), (1,)])
def test_each_model_gets_what_it_would_get_alone(
    chosen: tuple[int, ...], chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different trees, ranks, scales and targets; chunks that cut through a model's rows."""
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", chunk_tokens)
    all_models, all_trees = models(), trees()
    scorers = [FusedScorer(all_models[i]) for i in chosen]
    wanted = [all_trees[i] for i in chosen]
    alone = []
    for index, scorer, tree in zip(chosen, scorers, wanted, strict=True):
        loss = scorer.nll(tree).sum_nats
        loss.backward()  # type: ignore[no-untyped-call]
        alone.append((float(loss.detach()), gradients(all_models[index])))
    losses = []
    for scorer, tree, (rows, hidden) in zip(scorers, wanted, joint_hidden(scorers, wanted), strict=True):
        with scorer.given(tree, rows, hidden):
            losses.append(scorer.nll(tree).sum_nats)
    torch.autograd.backward(losses)
    for index, loss, (value, grads) in zip(chosen, losses, alone, strict=True):
        assert float(loss.detach()) == pytest.approx(value, rel=1e-12)
        for name, grad in gradients(all_models[index]).items():
            expected = grads[name]
            assert grad is not None, name
            assert expected is not None
            torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_one_models_overflow_stays_its_own() -> None:
    all_models, all_trees = models(), trees()
    with torch.no_grad():
        next(p for p in all_models[1].parameters() if p.requires_grad).fill_(float("nan"))
    scorers = [FusedScorer(model) for model in all_models]
    losses = []
    for scorer, tree, (rows, hidden) in zip(scorers, all_trees, joint_hidden(scorers, all_trees), strict=True):
        with scorer.given(tree, rows, hidden):
            losses.append(scorer.nll(tree).sum_nats)
    torch.autograd.backward(losses)
    assert [bool(loss.isfinite()) for loss in losses] == [True, False, True]
    assert all(g is not None and bool(g.isfinite().all()) for i in (0, 2) for g in gradients(all_models[i]).values())


def test_the_buffer_of_logits_is_there_once() -> None:
    scorers = [FusedScorer(model) for model in models()]
    for scorer in scorers:
        scorer.share_head(scorers[0])
    assert len({id(scorer.linear_head()) for scorer in scorers}) == 1
