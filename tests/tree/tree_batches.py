"""Batches of token sequences for the tests of this folder."""

import numpy as np

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
