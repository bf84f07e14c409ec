"""A form of a base's weights, the files' own or a changed one, read whole or by rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

ReadWeight = Callable[[str], torch.Tensor]
"""Full parameter name -> its float32 value."""
ReadRows = Callable[[str, slice], torch.Tensor]
"""Full parameter name and rows -> their float32 value."""


@dataclass(frozen=True, slots=True, eq=False)
class BaseForm:
    """How to read the weights.

    Attributes:
        read: Reads a weight.
        read_rows: Reads rows of one that is not in `whole`.
        whole: Full names of the weights whose rows cannot be read apart.
    """

    read: ReadWeight
    read_rows: ReadRows
    whole: frozenset[str] = frozenset()

    def by_rows(self, name: str, num_rows: int, *, step: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """A weight of `num_rows` rows in blocks of `step` rows; only one block is in memory, where the form allows."""
        value = self.read(name) if name in self.whole else None
        for start in range(0, num_rows, step):
            rows = slice(start, min(start + step, num_rows))
            yield rows, self.read_rows(name, rows) if value is None else value[rows]

    def with_values(self, values: dict[str, torch.Tensor]) -> "BaseForm":
        """The form with other values for some weights."""
        if not values:
            return self
        return replace(
            self,
            read=lambda name: values[name] if name in values else self.read(name),
            whole=self.whole | values.keys(),
        )

    def rounded(self, dtype: torch.dtype) -> "BaseForm":
        """The form as it would be after storing it in `dtype`."""
        return replace(
            self,
            read=lambda name: self.read(name).to(dtype).float(),
            read_rows=lambda name, rows: self.read_rows(name, rows).to(dtype).float(),
        )
