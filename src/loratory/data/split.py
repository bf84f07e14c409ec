"""Validation split by content: which side a row falls on depends on its prompt alone.

Rows with one prompt stay together, whatever they answer, so that no prompt is both trained on and scored. Order,
seeds and machines do not matter, and with a share, adding rows moves none of the others.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from loratory.data.records import Record
from loratory.errors import DataError

_SPACE = 2.0**64


def split_validation(records: Sequence[Record], val_size: int | float) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split records into (train, validation), each in the order given.

    Args:
        records: All rows.
        val_size: A share in (0, 1): prompts whose hash falls below it are held out. A whole number: prompts are
            held out from the smallest hash up until at least so many rows are. 0: none.

    Raises:
        DataError: If `val_size` is out of range or either side would be empty.
    """
    if val_size < 0 or (val_size >= 1 and val_size != int(val_size)):
        raise DataError(f"data.val_size: got {val_size}; a share below 1 or a whole number of rows.")
    if val_size == 0:
        return tuple(records), ()
    positions = [_position(record.prompt_key) for record in records]
    held = _held_below(positions, int(val_size)) if val_size >= 1 else math.floor(val_size * _SPACE)
    train = tuple(r for r, p in zip(records, positions, strict=True) if p >= held)
    validation = tuple(r for r, p in zip(records, positions, strict=True) if p < held)
    if not train or not validation:
        side = "training" if not train else "validation"
        raise DataError(
            f"data.val_size: {val_size} of {len(records)} rows with {len(set(positions))} different prompts leaves no "
            f"{side} row. Choose another size, or give data.validation a file."
        )
    return train, validation


def _position(prompt_key: str) -> int:
    """Place of a prompt on a line of 2**64 points; salted, so that other uses of the key are independent."""
    digest = hashlib.sha256(f"validation\x1f{prompt_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _held_below(positions: Sequence[int], count: int) -> int:
    sizes: dict[int, int] = defaultdict(int)
    for position in positions:
        sizes[position] += 1
    held = 0
    for position in sorted(sizes):
        held += sizes[position]
        if held >= count:
            return position + 1
    return 2**64
