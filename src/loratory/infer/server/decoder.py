"""What the engine asks of a decoder: rows in slots that join and leave between passes."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Decoder(Protocol):
    """Runs the model over rows in slots. A row is named by a number of the caller's.

    Attributes:
        num_slots: How many rows may stand side by side.
    """

    num_slots: int

    def admit(self, row: int, prompt: Sequence[int], *, variant: int) -> None:
        """Give a row a slot; there must be a free one. Nothing is computed yet."""
        ...

    def step(self) -> tuple[list[int], torch.Tensor]:
        """Run one pass: rows whose next token can be chosen now, and their logits [rows, V]; often not all rows."""
        ...

    def extend(self, row: int, token: int) -> None:
        """The row's next token, to be computed in the next pass."""
        ...

    def drop(self, row: int) -> None:
        """Free the row's slot."""
        ...

    def reset(self) -> None:
        """Drop all rows and all that is kept of earlier ones."""
        ...
