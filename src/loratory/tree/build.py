"""Building a TokenTree: the longest common token prefixes of a batch, stored once.

Not a tokenizer and not a sampler: it takes the batch as it is. Prefixes are compared by token ids after the whole
sequence was tokenised, never by text, because merges cross the boundary between prompt and answer.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from loratory.data.sequence import TokenSequence
from loratory.tree.tree import Segment, TokenTree

IntArray = npt.NDArray[np.int64]

MIN_SAVED_TOKENS = 16
"""A prefix is shared when that saves this many tokens: each split costs attention one more call per layer."""


def build_tree(
    sequences: Sequence[TokenSequence], *, share: bool = True, min_saved_tokens: int = MIN_SAVED_TOKENS
) -> TokenTree:
    """Store the common prefixes of a batch once.

    Tokens behind a sequence's last predictor are dropped, since nothing depends on them. Segments stand in
    depth-first order, so the descendants of a segment are the tokens right behind it.

    Args:
        sequences: The batch, any order; its order numbers the sequences of the tree.
        share: False gives every sequence a segment of its own.
        min_saved_tokens: A common prefix of n tokens with k branches below it is shared if (k - 1) * n reaches this;
            otherwise each branch keeps its copy. 1 shares every common token.

    Returns:
        The tree; empty (`num_tokens` 0) when no token carries weight.
    """
    assert min_saved_tokens >= 1
    inputs = [_needed_tokens(sequence) for sequence in sequences]
    if share:
        order = sorted((index for index, ids in enumerate(inputs) if len(ids)), key=lambda i: _sort_key(inputs[i]))
        unique, path_of_sequence = _unique(inputs, order)
        segments, chains = _radix_segments(unique, min_saved_tokens)
    else:
        path_of_sequence = np.full(len(inputs), -1, dtype=np.int64)
        unique = [ids for ids in inputs if len(ids)]
        path_of_sequence[[index for index, ids in enumerate(inputs) if len(ids)]] = np.arange(len(unique))
        segments, chains = _separate_segments(unique)
    flat_paths = [_flat_path(segments, chain) for chain in chains]
    tokens_T, positions_T = _flat_tokens(segments, unique, flat_paths)
    return _with_labels(sequences, segments, tokens_T, positions_T, path_of_sequence, flat_paths)


def _needed_tokens(sequence: TokenSequence) -> IntArray:
    """The tokens up to the one that predicts the last weighted token."""
    weighted = np.flatnonzero(sequence.weights)
    return sequence.token_ids[: weighted[-1] if len(weighted) else 0]


def _sort_key(token_ids: IntArray) -> bytes:
    """Bytes whose order is the order of the token ids."""
    return token_ids.astype(">u4").tobytes()


def _unique(inputs: Sequence[IntArray], order: Sequence[int]) -> tuple[list[IntArray], IntArray]:
    """Distinct inputs in sorted order, and which of them each sequence is (-1: none)."""
    unique: list[IntArray] = []
    path_of_sequence = np.full(len(inputs), -1, dtype=np.int64)
    for index in order:
        if not unique or not np.array_equal(unique[-1], inputs[index]):
            unique.append(inputs[index])
        path_of_sequence[index] = len(unique) - 1
    return unique, path_of_sequence


def _radix_segments(unique: Sequence[IntArray], min_saved_tokens: int) -> tuple[list[Segment], list[list[int]]]:
    """Segments of the radix trie over sorted distinct inputs, and each input's chain of segments from its root."""
    lcp = np.zeros(len(unique), dtype=np.int64)  # common prefix with the one before
    for index, (left, right) in enumerate(pairwise(unique), start=1):
        lcp[index] = _common_length(left, right)
    segments: list[Segment] = []
    chains: list[list[int]] = [[] for _ in unique]
    num_tokens = 0
    todo: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(unique), 0, ())] if len(unique) else []
    while todo:
        low, high, begin, chain = todo.pop()
        alone = high - low == 1
        end = len(unique[low]) if alone else int(lcp[low + 1 : high].min())
        starts = [low] if alone else [low, *(low + 1 + np.flatnonzero(lcp[low + 1 : high] == end)).tolist()]
        if end > begin and (alone or (len(starts) - 1) * (end - begin) >= min_saved_tokens):
            chain = (*chain, len(segments))
            parent = chain[-2] if len(chain) > 1 else -1
            segments.append(Segment(parent, num_tokens, num_tokens + end - begin))
            num_tokens += end - begin
            begin = end
        if alone:
            chains[low] = list(chain)
        else:
            groups = list(zip(starts, [*starts[1:], high], strict=True))
            todo.extend((first, last, begin, chain) for first, last in reversed(groups))
    return segments, chains


def _common_length(left: IntArray, right: IntArray) -> int:
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _separate_segments(inputs: Sequence[IntArray]) -> tuple[list[Segment], list[list[int]]]:
    bounds = np.concatenate([[0], np.cumsum([len(ids) for ids in inputs], dtype=np.int64)]).tolist()
    segments = [Segment(-1, start, stop) for start, stop in pairwise(bounds)]
    return segments, [[index] for index in range(len(inputs))]


def _flat_path(segments: Sequence[Segment], chain: Sequence[int]) -> IntArray:
    """Flat index of each position of a path."""
    return np.concatenate([np.arange(segments[i].start, segments[i].stop, dtype=np.int64) for i in chain])


def _flat_tokens(
    segments: Sequence[Segment], unique: Sequence[IntArray], flat_paths: Sequence[IntArray]
) -> tuple[IntArray, IntArray]:
    num_tokens = segments[-1].stop if segments else 0
    tokens_T = np.empty(num_tokens, dtype=np.int64)
    positions_T = np.empty(num_tokens, dtype=np.int64)
    for ids, flat in zip(unique, flat_paths, strict=True):
        tokens_T[flat] = ids
        positions_T[flat] = np.arange(len(flat))
    return tokens_T, positions_T


def _with_labels(
    sequences: Sequence[TokenSequence],
    segments: Sequence[Segment],
    tokens_T: IntArray,
    positions_T: IntArray,
    path_of_sequence: IntArray,
    flat_paths: Sequence[IntArray],
) -> TokenTree:
    """Attach the labels: the token before a weighted one predicts it, be it the last of the parent segment."""
    predictors: list[IntArray] = []
    targets: list[IntArray] = []
    weights: list[npt.NDArray[np.float32]] = []
    for sequence, path in zip(sequences, path_of_sequence, strict=True):
        weighted = np.flatnonzero(sequence.weights)
        predictors.append(flat_paths[path][weighted - 1] if path >= 0 else weighted)
        targets.append(sequence.token_ids[weighted])
        weights.append(sequence.weights[weighted])
    empty = np.empty(0, dtype=np.int64)
    predictor_M = np.concatenate([empty, *predictors])
    target_M = np.concatenate([empty, *targets])
    weight_M = np.concatenate([empty.astype(np.float32), *weights])
    base = int(target_M.max(initial=0)) + 1
    key_N, label_M = np.unique(predictor_M * base + target_M, return_inverse=True)
    weight_N = np.bincount(label_M, weights=weight_M, minlength=len(key_N))
    return TokenTree(
        tokens_T=torch.from_numpy(tokens_T),
        positions_T=torch.from_numpy(positions_T),
        segments=tuple(segments),
        predictors_N=torch.from_numpy(key_N // base),
        targets_N=torch.from_numpy(key_N % base),
        weights_N=torch.from_numpy(weight_N.astype(np.float32)),
        label_M=torch.from_numpy(label_M.astype(np.int64)),
        sequence_M=torch.from_numpy(np.repeat(np.arange(len(sequences)), [len(t) for t in targets])),
        weight_M=torch.from_numpy(weight_M),
        num_sequences=len(sequences),
        num_path_tokens=sum(len(sequence) for sequence in sequences),
    )
