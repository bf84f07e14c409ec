"""Batches of continuations, by hand and by random rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from loratory.evaluation.zero_shot.likelihood import Continuation, LikelihoodScorer, default_batch_tokens, token_batches


def rows(*ids: list[int]) -> list[np.ndarray]:
    return [np.array(each, dtype=np.int64) for each in ids]


def test_choices_of_a_document_share_its_context() -> None:
    context = [7] * 10
    assert list(token_batches(rows([*context, 1], [9, 9], [*context, 2], [*context, 3]), 15, shares=True)) == [
        [0, 2, 3, 1]
    ]
    assert len(list(token_batches(rows([*context, 1], [9, 9], [*context, 2], [*context, 3]), 15, shares=False))) > 1


def test_a_batch_ends_between_documents() -> None:
    documents = rows(*([d] * 10 + [choice] for d in range(1, 6) for choice in (1, 2, 3)))
    # 13 tokens a document; the budget holds four documents, and the context and two choices of the fifth.
    assert list(token_batches(documents, 64, shares=True)) == [list(range(12)), [12, 13, 14]]


def test_padding_counts_where_nothing_is_shared() -> None:
    assert list(token_batches(rows([1], [1, 2, 3, 4], [1, 2], [1, 2, 3]), 8, shares=False)) == [[1, 3], [2, 0]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=20), st.integers(1, 30), st.booleans())
def test_every_row_is_in_one_batch_within_budget(ids: list[list[int]], budget: int, shares: bool) -> None:
    batches = list(token_batches(rows(*ids), budget, shares=shares))
    assert sorted(index for batch in batches for index in batch) == list(range(len(ids)))
    for batch in batches:
        if shares:
            size = len({tuple(ids[index][: end + 1]) for index in batch for end in range(len(ids[index]))})
        else:
            size = len(batch) * max(len(ids[index]) for index in batch)
        assert size <= budget or len(batch) == 1


def test_budget_follows_memory_and_path(tiny_llama: LlamaForCausalLM) -> None:
    assert 256 <= default_batch_tokens(tiny_llama, "padded") <= default_batch_tokens(tiny_llama, "fused") <= 2048


def test_common_beginning_of_all_batches_is_computed_once(
    tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loratory.tree.fused import scorer

    shots = list(range(10, 60))
    asked = [Continuation([*shots, *([d] * 20)], [c], name=f"{d} {c}") for d in range(3) for c in (70, 71, 72)]
    expected = LikelihoodScorer(tiny_llama, max_length=512, path="padded").score(asked)
    lengths: list[int] = []
    run_layer = scorer.run_layer

    def counted(hidden: np.ndarray, *arguments: object, **options: object) -> object:
        lengths.append(len(hidden))
        return run_layer(hidden, *arguments, **options)

    monkeypatch.setattr(scorer, "run_layer", counted)
    got = LikelihoodScorer(tiny_llama, max_length=512, max_batch_tokens=80).score(asked)
    assert [each.logprob_nats for each in got] == pytest.approx([each.logprob_nats for each in expected], abs=1e-4)
    assert len(lengths) == 3 * 2, "three batches through two layers"
    assert sum(lengths[::2]) == 3 * 20, "without the examples"
