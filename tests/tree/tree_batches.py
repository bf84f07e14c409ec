"""Batches of token sequences for the tests of this folder."""

import numpy as np
from hypothesis import strategies as st

from loratory.data.sequence import TokenSequence


def trained_tail(token_ids: list[int], num_context: int) -> TokenSequence:
    """A sequence whose first tokens are context; the others are trained."""
    weights = np.ones(len(token_ids), dtype=np.float32)
    weights[:num_context] = 0
    return TokenSequence(np.array(token_ids, dtype=np.int64), weights, num_context)


def template_batch(vocab: int, *, seed: int = 0, num_rows: int = 6) -> list[TokenSequence]:
    """Rows with one long template, unequal queries, and answers of unequal weights."""
    rng = np.random.default_rng(seed)
    template = rng.integers(3, vocab, 21)
    rows = []
    for _ in range(num_rows):
        query, answer = rng.integers(3, vocab, rng.integers(1, 12)), rng.integers(3, vocab, rng.integers(1, 7))
        ids = np.concatenate([template, query, answer])
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[-len(answer) :] = rng.uniform(0.5, 2.0, len(answer))
        rows.append(TokenSequence(ids, weights, len(ids) - len(answer)))
    return rows


def deep_batch(vocab: int, *, seed: int = 0) -> list[TokenSequence]:
    """Three levels: a system prompt, two prompts, three completions each, and a prompt without company.

    Trained on the prompts too, so that shared tokens carry labels; one completion is a prefix of another.
    """
    rng = np.random.default_rng(seed)
    system = rng.integers(3, vocab, 18).tolist()
    rows = []
    for _ in range(2):
        prompt = rng.integers(3, vocab, 17).tolist()
        long = rng.integers(3, vocab, 8).tolist()
        completions = [long, long[:4], rng.integers(3, vocab, 5).tolist()]
        rows += [trained_tail([*system, *prompt, *completion], 20) for completion in completions]
    return [*rows, trained_tail(rng.integers(3, vocab, 11).tolist(), 3)]


@st.composite
def batches(draw: st.DrawFn) -> list[TokenSequence]:
    """Sequences grown from each other's prefixes, so that trees get deep, with any weights."""
    sequences: list[list[int]] = []
    for _ in range(draw(st.integers(1, 7))):
        stem = draw(st.sampled_from(sequences)) if sequences and draw(st.booleans()) else []
        stem = stem[: draw(st.integers(0, len(stem)))]
        sequences.append(stem + draw(st.lists(st.integers(0, 3), min_size=0 if stem else 1, max_size=6)))
    batch = []
    for ids in sequences:
        weights = draw(st.lists(st.sampled_from([0.0, 1.0, 0.5, -1.0]), min_size=len(ids), max_size=len(ids)))
        weights[0] = 0.0
        batch.append(TokenSequence(np.array(ids, dtype=np.int64), np.array(weights, dtype=np.float32), 1))
    return batch
