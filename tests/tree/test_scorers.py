from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel
from tree_batches import deep_batch, template_batch, trained_tail

from loratory.errors import ModelError
from loratory.tree.build import build_tree
from loratory.tree.padded import PaddedScorer
from loratory.tree.scorers import ScorerPath, make_scorer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's


def lora(model: PreTrainedModel, *, dropout: float = 0.0) -> peft.PeftModel:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], lora_dropout=dropout, init_lora_weights=False)
    return peft.get_peft_model(model, config)


def nll(model: torch.nn.Module, path: ScorerPath) -> float:
    with torch.no_grad():
        return float(make_scorer(model, path=path).nll(build_tree(deep_batch(300), min_saved_tokens=4)).sum_nats)


def test_llama_with_lora_is_fused(tiny_llama: LlamaForCausalLM) -> None:
    scorer = make_scorer(lora(tiny_llama))
    assert scorer.path == "fused"
    assert "every token once" in scorer.reason


def test_all_paths_agree(tiny_llama: LlamaForCausalLM) -> None:
    model = lora(tiny_llama)
    values = [nll(model, path) for path in ("padded", "tree", "fused", "auto")]
    assert values == pytest.approx([values[0]] * 4, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("path", ["padded", "tree", "fused", "auto"])
def test_label_scores_are_logits_and_greedy_choice(tiny_llama: LlamaForCausalLM, path: ScorerPath) -> None:
    model = lora(tiny_llama)
    batch = deep_batch(300)
    greedy = [int(model(torch.from_numpy(s.token_ids)[None]).logits[0, -1].argmax()) for s in batch]
    batch += [
        trained_tail([*s.token_ids.tolist(), token], len(s)) for s, token in zip(batch, greedy, strict=True)
    ]  # labels that greedy decoding takes, beside random ones
    tree = build_tree(batch, min_saved_tokens=4)
    scores = make_scorer(model, path=path).label_scores(tree)
    assert scores.logprobs_N.shape == scores.is_top_N.shape == tree.targets_N.shape
    for index in range(len(greedy)):
        ids = torch.from_numpy(batch[len(greedy) + index].token_ids)
        logits_V = model(ids[None, :-1]).logits[0, -1]
        label = int(tree.label_M[tree.sequence_M == len(greedy) + index])
        assert bool(scores.is_top_N[label])
        assert float(scores.logprobs_N[label]) == pytest.approx(float(logits_V.log_softmax(-1).max()), abs=1e-5)
    twin = PaddedScorer(model).label_scores(tree)
    assert torch.equal(scores.is_top_N, twin.is_top_N)
    assert 0 < int(scores.is_top_N.sum()) < len(scores.is_top_N)
    torch.testing.assert_close(scores.logprobs_N, twin.logprobs_N, rtol=1e-5, atol=1e-5)


def test_family_without_fused_layers_takes_the_tree(tiny_model_dir: Callable[[str], Path]) -> None:
    scorer = make_scorer(AutoModelForCausalLM.from_pretrained(tiny_model_dir("gpt2")))
    assert scorer.path == "tree"
    assert "gpt2" in scorer.reason


def test_full_fine_tuning_takes_the_tree(tiny_llama: LlamaForCausalLM) -> None:
    scorer = make_scorer(tiny_llama)
    assert scorer.path == "tree"
    assert "is trained" in scorer.reason


def test_bloom_is_padded(tiny_model_dir: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir("bloom"))
    scorer = make_scorer(model)
    assert scorer.path == "padded"
    assert "bloom" in scorer.reason
    batch = template_batch(300)
    tree = build_tree(batch)
    expected = torch.stack([(alone(model, s.token_ids, s.weights)) for s in batch])
    torch.testing.assert_close(tree.sum_by_sequence(scorer.logprobs(tree)), expected)
    with pytest.raises(ModelError, match="not exact"):
        make_scorer(model, path="tree")


def alone(model: PreTrainedModel, token_ids: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    ids = torch.from_numpy(token_ids)
    logprobs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
    own = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
    return (own * torch.from_numpy(weights[1:])).sum()


def test_dropout_is_padded_while_training_only(tiny_llama: LlamaForCausalLM) -> None:
    model = lora(tiny_llama, dropout=0.1)
    scorer = make_scorer(model)
    model.train()
    assert scorer.path == "padded"
    assert "adapter dropout is 0.1" in scorer.reason
    tree = build_tree(deep_batch(300))
    first, second = (float(scorer.nll(tree).sum_nats.detach()) for _ in range(2))
    assert first != second
    model.eval()
    assert scorer.path == "fused"
    torch.testing.assert_close(scorer.nll(tree).sum_nats, PaddedScorer(model).nll(tree).sum_nats)
    for forced in ("tree", "fused"):
        with pytest.raises(ModelError, match=r"adapter dropout is 0\.1"):
            make_scorer(model, path=forced)


def test_attention_dropout_is_named(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.config.attention_dropout = 0.2
    assert "attention_dropout is 0.2" in make_scorer(tiny_llama.train()).reason


@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning"])
def test_prompt_learning_is_padded(tiny_llama: LlamaForCausalLM, kind: str) -> None:
    config = {
        "prompt tuning": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix tuning": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]
    model = peft.get_peft_model(tiny_llama, config).eval()
    scorer = make_scorer(model)
    assert scorer.path == "padded"
    assert "prompt learning" in scorer.reason
    batch = template_batch(300)
    together = build_tree(batch)
    expected = torch.cat(
        [scorer.logprobs(build_tree([s])) * torch.from_numpy(s.weights[s.weights != 0]) for s in batch]
    )
    torch.testing.assert_close(scorer.nll(together).sum_nats, -expected.sum())
    scorer.nll(together).sum_nats.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@torch.no_grad()
@pytest.mark.parametrize("path", ["tree", "fused", "padded"])
def test_outputs_equal_the_plain_model(tiny_llama: LlamaForCausalLM, path: ScorerPath) -> None:
    model = lora(tiny_llama)
    batch = template_batch(300)
    tree = build_tree(batch, min_saved_tokens=4)
    hidden_P = torch.tensor([tree.num_tokens - 1, 0, int(tree.predictors_N[0])])
    outputs = make_scorer(model, path=path).outputs(tree, hidden_P=hidden_P, needs_entropy=True)
    assert outputs.entropy_N is not None
    assert make_scorer(model).path == "fused"  # nothing was left on the model
    hidden_of, logits_of = {}, {}
    for sequence in batch:
        out = model(torch.from_numpy(sequence.token_ids)[None], output_hidden_states=True)
        key = tuple(sequence.token_ids.tolist())
        hidden_of[key], logits_of[key] = out.hidden_states[-1][0], out.logits[0]
    for label, index in zip(tree.label_M.tolist(), range(len(tree.label_M)), strict=True):
        sequence = batch[int(tree.sequence_M[index])]
        logits_V = logits_of[tuple(sequence.token_ids.tolist())][int(tree.positions_T[tree.predictors_N[label]])]
        logprob_V = logits_V.log_softmax(-1)
        assert float(outputs.logprob_N[label]) == pytest.approx(float(logprob_V[tree.targets_N[label]]), abs=1e-5)
        assert float(outputs.entropy_N[label]) == pytest.approx(float(-(logprob_V.exp() * logprob_V).sum()), abs=1e-5)
    last = hidden_of[tuple(batch[-1].token_ids.tolist())]
    torch.testing.assert_close(outputs.hidden_PD[0], last[int(tree.positions_T[-1])], atol=1e-5, rtol=1e-4)
    first = hidden_of[tuple(batch[0].token_ids.tolist())]
    torch.testing.assert_close(outputs.hidden_PD[1], first[0], atol=1e-5, rtol=1e-4)


def test_gradients_of_outputs_agree(tiny_llama: LlamaForCausalLM) -> None:
    model = lora(tiny_llama).double()
    tree = build_tree(template_batch(300), min_saved_tokens=4)
    hidden_P = torch.arange(tree.num_tokens)
    generator = torch.Generator().manual_seed(0)
    weights_PD = torch.randn(tree.num_tokens, 32, generator=generator, dtype=torch.float64)
    gradients = []
    for path in ("padded", "tree", "fused"):
        model.zero_grad()
        for needs_entropy in (True, False):
            outputs = make_scorer(model, path=path).outputs(tree, hidden_P=hidden_P, needs_entropy=needs_entropy)
            loss = outputs.logprob_N.sum() + (outputs.hidden_PD * weights_PD).sum()
            if outputs.entropy_N is not None:
                loss = loss + (outputs.entropy_N * 0.3).sum()
            loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-4)  # norms of the model are fp32
