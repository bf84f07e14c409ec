"""Sequences that are scored as a whole: where in a tree a classification head reads each of them.

Such a sequence carries one label behind its last token, a place to be scored rather than a token to be predicted. So
the label's predictor is the sequence's last token, trees are built and cut as for every other objective, and nothing
of the sequence is dropped.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.tree.tree import TokenTree

_PLACE = 0  # never embedded and never predicted


def scored_sequence(token_ids: Sequence[int], *, prompt_length: int | None = None) -> TokenSequence:
    """A sequence to be scored at its last token.

    Args:
        token_ids: All its tokens, at least one.
        prompt_length: How many of them a length limit may cut from; default all.
    """
    ids = np.append(np.asarray(token_ids, dtype=np.int64), _PLACE)
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[-1] = 1.0
    return TokenSequence(ids, weights, len(ids) - 1 if prompt_length is None else prompt_length)


def reading_tokens(tree: TokenTree, pad_token_id: int | None) -> torch.Tensor:
    """Flat index of the token at which each sequence is scored, [num_sequences].

    As in transformers that is the last token that is not padding: it matters where a tokenizer pads with its stop
    token, which then does not count at a sequence's end either.
    """
    assert len(tree.label_M) == tree.num_sequences, "each sequence needs one place to be scored"
    reading_S = torch.empty(tree.num_sequences, dtype=torch.int64)
    reading_S[tree.sequence_M] = tree.predictors_N[tree.label_M]
    if pad_token_id is None:
        return reading_S
    for row in torch.nonzero(tree.tokens_T[reading_S] == pad_token_id)[:, 0].tolist():
        reading_S[row] = _last_word(tree, int(reading_S[row]), pad_token_id)
    return reading_S


def score_layer(base: PreTrainedModel) -> torch.nn.Module | None:
    """The head of a decoder with classes: one linear map of a hidden state; None for other models."""
    layer = getattr(base, "score", None)
    return layer if isinstance(layer, torch.nn.Module) else None


def _last_word(tree: TokenTree, token: int, pad_token_id: int) -> int:
    """The last token of the path up to `token` that is not padding; its first one if all are."""
    index = next(i for i, segment in enumerate(tree.segments) if segment.start <= token < segment.stop)
    while True:
        segment = tree.segments[index]
        for place in range(token, segment.start - 1, -1):
            if int(tree.tokens_T[place]) != pad_token_id:
                return place
        if segment.parent < 0:
            return segment.start
        index = segment.parent
        token = tree.segments[index].stop - 1
