"""Per-token numbers of sampled answers, taken from a tree, and facts of rows brought to the tree's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loratory.objective.row import Batch, Row
from loratory.tree.tree import TokenTree

Floats = npt.NDArray[np.float64]


def per_use(tree: TokenTree, values_N: torch.Tensor) -> torch.Tensor:
    """Values of labels at each of their uses, [M]: answer after answer, token after token; differentiable."""
    return values_N[tree.label_M.to(values_N.device)]


def per_row(tree: TokenTree, values_N: torch.Tensor, rows: Sequence[Row]) -> list[Floats]:
    """The same, cut into rows, as numbers."""
    values_M = per_use(tree, values_N).detach().double().cpu().numpy()
    ends = np.cumsum([sum(sequence.num_supervised for sequence in row.sequences) for row in rows])
    return list(np.split(values_M, ends[:-1]))


def fact(batch: Batch, name: str, like: torch.Tensor) -> torch.Tensor:
    """A fact of each row, one behind the other, in the precision and on the device of `like`."""
    joined: npt.NDArray[Any] = np.concatenate([row.facts[name] for row in batch.rows])
    return torch.from_numpy(joined).to(dtype=like.dtype, device=like.device)
