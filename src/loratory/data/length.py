"""Sequences against the length limit: refuse, drop or shorten, always counted, never at the answer's cost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from loratory.data.records import Origin
from loratory.data.sequence import TokenSequence
from loratory.errors import DataError

Truncation = Literal["error", "truncate", "drop"]

_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class LengthCounts:
    """What the limit did.

    Attributes:
        num_sequences: Sequences looked at.
        num_kept: Sequences kept, shortened ones included.
        num_truncated: Sequences whose prompt lost its start.
        num_dropped: Sequences dropped for being too long (policy 'drop').
        num_answer_too_long: Sequences dropped because the answer alone does not fit (policy 'truncate').
        prompt_tokens_cut: Prompt tokens cut off in all.
        longest_tokens: Length of the longest sequence before the limit.
    """

    num_sequences: int
    num_kept: int
    num_truncated: int
    num_dropped: int
    num_answer_too_long: int
    prompt_tokens_cut: int
    longest_tokens: int

    def as_dict(self) -> dict[str, int]:
        """The counts as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FitResult:
    """Sequences that fit.

    Attributes:
        sequences: In the order given.
        indices: Position of each in what was given.
        counts: What the limit did.
    """

    sequences: tuple[TokenSequence, ...]
    indices: tuple[int, ...]
    counts: LengthCounts


def fit_length(
    sequences: Sequence[TokenSequence],
    *,
    cutoff_len: int,
    truncation: Truncation,
    origins: Sequence[Origin] | None = None,
    needs_supervised: bool = True,
) -> FitResult:
    """Apply the length limit.

    With 'truncate' the prompt loses its start except the first token (BOS); the answer stays whole, and a row whose
    answer does not fit is dropped and counted apart. A row of plain text, which has no prompt, loses its end.

    Args:
        sequences: Tokens with weights.
        cutoff_len: Longest length allowed, in tokens.
        truncation: 'error', 'drop' or 'truncate'.
        origins: Where each sequence came from, for errors.
        needs_supervised: Every sequence has something to train on; not so for prompts that are yet to be answered.

    Raises:
        DataError: With policy 'error' if any sequence is too long; if a sequence has no supervised token; if
            nothing is left.
    """
    over = [index for index, sequence in enumerate(sequences) if len(sequence) > cutoff_len]
    if over and truncation == "error":
        raise DataError(_too_long(sequences, over, cutoff_len, origins))
    kept: list[TokenSequence] = []
    indices: list[int] = []
    dropped = answer_too_long = 0
    for index, sequence in enumerate(sequences):
        fitted: TokenSequence | None = sequence
        if len(sequence) > cutoff_len:
            fitted = _shortened(sequence, cutoff_len) if truncation == "truncate" else None
            dropped += truncation == "drop"
            answer_too_long += truncation == "truncate" and fitted is None
        if fitted is not None:
            kept.append(fitted)
            indices.append(index)
    if needs_supervised:
        _check_supervised(kept, indices, origins)
    counts = LengthCounts(
        num_sequences=len(sequences),
        num_kept=len(kept),
        num_truncated=len(over) - dropped - answer_too_long,
        num_dropped=dropped,
        num_answer_too_long=answer_too_long,
        prompt_tokens_cut=sum(len(sequences[i]) - len(s) for i, s in zip(indices, kept, strict=True)),
        longest_tokens=max((len(sequence) for sequence in sequences), default=0),
    )
    if sequences and not kept:
        raise DataError(
            f"data.cutoff_len: all {len(sequences)} rows are longer than {cutoff_len} tokens and were dropped "
            f"(longest {counts.longest_tokens}). Raise data.cutoff_len."
        )
    return FitResult(tuple(kept), tuple(indices), counts)


def _shortened(sequence: TokenSequence, cutoff_len: int) -> TokenSequence | None:
    """The sequence without the start of its prompt, first token kept; None if the answer does not fit beside it.

    Plain text, which has no prompt and no answer, loses its end.
    """
    if sequence.prompt_length == 0:
        return TokenSequence(sequence.token_ids[:cutoff_len], sequence.weights[:cutoff_len], 0)
    excess = len(sequence) - cutoff_len
    if excess > sequence.prompt_length - 1:
        return None
    keep = [0, *range(1 + excess, len(sequence))]
    return TokenSequence(sequence.token_ids[keep], sequence.weights[keep], sequence.prompt_length - excess)


def _too_long(
    sequences: Sequence[TokenSequence], over: Sequence[int], cutoff_len: int, origins: Sequence[Origin] | None
) -> str:
    longest = max(over, key=lambda index: len(sequences[index]))
    lost = sum(int((sequences[index].weights[cutoff_len:] != 0).sum()) for index in over)
    hopeless = sum(_shortened(sequences[index], cutoff_len) is None for index in over)
    text = (
        f"data.cutoff_len: {len(over)} of {len(sequences)} rows are longer than {cutoff_len} tokens; the longest has "
        f"{len(sequences[longest])}{f' ({origins[longest]})' if origins else ''}. Cutting their ends off would lose "
        f"{lost} answer tokens.\nSet data.cutoff_len to {len(sequences[longest])} or more, or data.truncation to "
        "'truncate' (cuts the start of the prompt, keeps the answer) or 'drop' (leaves these rows out)."
    )
    if hopeless:
        text += f"\nFor {hopeless} of them the answer alone does not fit; 'truncate' would leave those out."
    if origins:
        text += f"\nRows: {', '.join(str(origins[i]) for i in over[:_NAMED_ROWS])}{', …' * (len(over) > _NAMED_ROWS)}"
    return text


def _check_supervised(
    sequences: Sequence[TokenSequence], indices: Sequence[int], origins: Sequence[Origin] | None
) -> None:
    empty = [i for i, sequence in zip(indices, sequences, strict=True) if sequence.num_supervised == 0]
    if empty:
        names = ", ".join(str(origins[i]) if origins else f"row {i + 1}" for i in empty[:_NAMED_ROWS])
        raise DataError(
            f"{len(empty)} rows have no token to train on ({names}{', …' * (len(empty) > _NAMED_ROWS)}): the answer "
            "gives no tokens under this tokenizer and template. Remove or mend these rows."
        )
