import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.padded import PaddedScorer


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture
def batch() -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    template = rng.integers(2, 50, 25)
    rows = []
    for length in (4, 9, 6, 6):
        ids = np.concatenate([template, rng.integers(2, 50, length)])
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[26:] = rng.uniform(0.5, 2, len(ids) - 26)
        rows.append(TokenSequence(ids, weights, 26))
    return [*rows, rows[1]]


def alone(model: LlamaForCausalLM, sequence: TokenSequence) -> torch.Tensor:
    """Log-probabilities of a sequence's weighted tokens, the sequence on its own."""
    ids = torch.from_numpy(sequence.token_ids)[None]
    logprobs = torch.log_softmax(model(ids, use_cache=False).logits[0], dim=-1)
    at = torch.from_numpy(np.flatnonzero(sequence.weights))
    return logprobs[at - 1, ids[0, at]]


@pytest.mark.parametrize("share", [True, False])
def test_equals_each_sequence_on_its_own(model: LlamaForCausalLM, batch: list[TokenSequence], share: bool) -> None:
    tree = build_tree(batch, share=share)
    result = PaddedScorer(model).nll(tree)
    weights = [torch.from_numpy(s.weights[s.weights != 0]).double() for s in batch]
    expected = -sum((alone(model, s) * w).sum() for s, w in zip(batch, weights, strict=True))
    torch.testing.assert_close(result.sum_nats, expected, rtol=1e-12, atol=0)
    assert result.num_labels == sum(s.num_supervised for s in batch)
    per_sequence = tree.sum_by_sequence(PaddedScorer(model).logprobs(tree))
    expected_S = torch.stack([(alone(model, s) * w).sum() for s, w in zip(batch, weights, strict=True)])
    torch.testing.assert_close(per_sequence, expected_S, rtol=1e-12, atol=0)


def test_counts_correct_predictions_by_use(model: LlamaForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7]])
    best = int(model(ids, use_cache=False).logits[0, -1].argmax())
    wrong = (best + 1) % 50
    rows = [
        TokenSequence(np.array([5, 6, 7, t]), np.array([0, 0, 0, 1], dtype=np.float32), 3) for t in (best, best, wrong)
    ]
    result = PaddedScorer(model).nll(build_tree(rows))
    assert (result.num_correct, result.num_labels) == (2, 3)


def test_tree_without_labels_is_zero(model: LlamaForCausalLM) -> None:
    tree = build_tree([TokenSequence(np.array([1, 2]), np.zeros(2, dtype=np.float32), 2)])
    assert float(PaddedScorer(model).nll(tree).sum_nats) == 0
    assert PaddedScorer(model).logprobs(tree).shape == (0,)
