"""A forward pass of the objective as training and evaluation both make it: in one precision, with its statistics."""

from collections.abc import Mapping, Sequence

import torch

from loratory.engine.precision import autocast
from loratory.engine.ranks import Ranks
from loratory.objective.loss import LossSum, Objective
from loratory.objective.row import Batch, Row, batch_of
from loratory.tree.scorer import Scorer


class Forward:
    """Computes losses of batches.

    Args:
        objective: What is learnt.
        scorer: Scores token trees with the current weights.
        device: Where they are.
        autocast_dtype: Of mixed precision; None computes in the weights' own.
    """

    def __init__(
        self, objective: Objective, scorer: Scorer, *, device: torch.device, autocast_dtype: torch.dtype | None
    ) -> None:
        self._objective = objective
        self._scorer = scorer
        self._device = device
        self._autocast_dtype = autocast_dtype

    def batch(self, rows: Sequence[Row]) -> Batch:
        """One pass over these rows alone."""
        return batch_of(rows, self.statistics([rows], None))

    def loss(self, batch: Batch) -> LossSum:
        """The objective's loss of a batch."""
        with autocast(self._device, self._autocast_dtype):
            return self._objective.loss(self._scorer, batch)

    @torch.no_grad()
    def statistics(self, passes: Sequence[Sequence[Row]], ranks: Ranks | None) -> dict[str, float]:
        """Means over all passes, and ranks unless None, of what the objective wants to know before its loss."""
        if type(self._objective).statistics is Objective.statistics:
            return {}
        with autocast(self._device, self._autocast_dtype):
            sums = merge_metrics([self._objective.statistics(self._scorer, rows) for rows in passes])
        if ranks is not None:
            sums = merge_metrics(ranks.gather(sums))
        return {name: total / n for name, (total, n) in sums.items() if n}


def merge_metrics(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Add up (sum, count) pairs by name."""
    merged: dict[str, tuple[float, float]] = {}
    for part in parts:
        for name, (total, count) in part.items():
            before_total, before_count = merged.get(name, (0.0, 0.0))
            merged[name] = (before_total + total, before_count + count)
    return merged
