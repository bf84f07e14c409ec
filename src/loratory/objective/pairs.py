"""Preference pairs as token sequences: one prompt, the chosen and the rejected answer, only these weighted."""

from dataclasses import replace

import numpy as np

from loratory.data.records import Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError
from loratory.objective.row import UnusableRowError


def pair_sequences(record: Record, template: BoundTemplate) -> tuple[TokenSequence, TokenSequence]:
    """The chosen and the rejected answer behind their common prompt; weight 1 on the answers' tokens, else 0.

    Raises:
        DataError: The record is no pair.
        UnusableRowError: Its answers are equal, or one is empty: nothing can be learnt from it.
    """
    if len(record.alternatives) != 2:
        raise DataError(
            f"{record.origin}: the row is no preference pair. This objective needs a chosen and a rejected answer in "
            "every row (columns chosen and rejected, or an entry of dataset_info.json with ranking: true)."
        )
    chosen, rejected = (answer_sequence(record, answer, template) for answer in record.alternatives)
    if np.array_equal(chosen.token_ids, rejected.token_ids):
        raise UnusableRowError("chosen and rejected answer are equal")
    return chosen, rejected


def answer_sequence(record: Record, answer: str, template: BoundTemplate) -> TokenSequence:
    """The record's prompt and this answer; weight 1 on the answer's tokens, 0 on the prompt's.

    Raises:
        UnusableRowError: The answer is empty.
    """
    if not answer.strip():
        raise UnusableRowError("an answer is empty")
    whole = replace(record, turns=(*record.prompt, Turn("assistant", answer)), alternatives=(), label=None)
    return answer_only(template.sequence(whole))


def answer_only(sequence: TokenSequence) -> TokenSequence:
    """The sequence with weights on the final answer alone: earlier answers of a conversation belong to the prompt."""
    weights = np.zeros_like(sequence.weights)
    weights[sequence.prompt_length :] = 1.0
    return TokenSequence(sequence.token_ids, weights, sequence.prompt_length)
