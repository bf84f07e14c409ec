"""Records to token sequences in one pass: tokenise in batches, apply the length limit, count.

A record's sequences (one for supervised rows, two for a preference pair) stay together: if one does not fit, the
record is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from loratory.data.length import LengthCounts, Truncation, fit_length
from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate

_BATCH_RECORDS = 512


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Token figures of encoded rows.

    Attributes:
        num_tokens: All tokens.
        num_supervised: Tokens with weight.
        median_tokens: Median sequence length.
        p95_tokens: Length that 95 % of sequences do not exceed.
        max_tokens: Longest sequence.
    """

    num_tokens: int
    num_supervised: int
    median_tokens: int
    p95_tokens: int
    max_tokens: int

    def as_dict(self) -> dict[str, int]:
        """The figures as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token sequences of records.

    Attributes:
        sequences: Per kept record, its sequences.
        indices: Position of each kept record in the records given.
        counts: What the length limit did, in sequences.
        stats: Token figures of what was kept.
    """

    sequences: tuple[tuple[TokenSequence, ...], ...]
    indices: tuple[int, ...]
    counts: LengthCounts
    stats: TokenStats


def encode_records(
    records: Sequence[Record],
    template: BoundTemplate,
    *,
    cutoff_len: int,
    truncation: Truncation,
    objective_sequences: Callable[[Record], Sequence[TokenSequence]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Encoded:
    """Tokenise records and apply the length limit.

    Args:
        records: Rows to encode.
        template: The bound template.
        cutoff_len: Longest sequence allowed, in tokens.
        truncation: 'error', 'drop' or 'truncate', as in `fit_length`.
        objective_sequences: A record's sequences, for objectives that need other than one; None for
            `template.sequence`.
        on_progress: Called with the number of records encoded so far.

    Raises:
        DataError: As `fit_length`.
        TemplateError: If the template cannot express a record.
    """
    groups: list[Sequence[TokenSequence]] = []
    for start in range(0, len(records), _BATCH_RECORDS):
        batch = records[start : start + _BATCH_RECORDS]
        if objective_sequences is None:
            groups += [(sequence,) for sequence in template.sequences(batch)]
        else:
            groups += [objective_sequences(record) for record in batch]
        if on_progress is not None:
            on_progress(len(groups))
    owners = [index for index, group in enumerate(groups) for _ in group]
    fit = fit_length(
        [sequence for group in groups for sequence in group],
        cutoff_len=cutoff_len,
        truncation=truncation,
        origins=[records[index].origin for index in owners],
    )
    kept: dict[int, list[TokenSequence]] = {}
    for sequence, index in zip(fit.sequences, fit.indices, strict=True):
        kept.setdefault(owners[index], []).append(sequence)
    whole = {index: tuple(group) for index, group in kept.items() if len(group) == len(groups[index])}
    return Encoded(tuple(whole.values()), tuple(whole), fit.counts, token_stats([s for g in whole.values() for s in g]))


def token_stats(sequences: Sequence[TokenSequence]) -> TokenStats:
    """Token figures of sequences; all zero for none."""
    lengths = np.array([len(sequence) for sequence in sequences] or [0])
    return TokenStats(
        num_tokens=int(lengths.sum()),
        num_supervised=sum(sequence.num_supervised for sequence in sequences),
        median_tokens=int(np.median(lengths)),
        p95_tokens=int(np.percentile(lengths, 95, method="higher")),
        max_tokens=int(lengths.max()),
    )
