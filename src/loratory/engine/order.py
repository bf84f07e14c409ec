"""Order of the rows: a pure function of (seed, epoch). Resume needs one integer, and no state to lose."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loratory.engine.mixture import Mixture
from loratory.engine.permutation import permutation

_BATCHES_PER_GROUP = 50


def epoch_batches(
    num_rows: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    lengths: Sequence[int] | None = None,
    mixture: Mixture | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Row indices of each optimizer batch of one epoch; without a mixture every row stands exactly once.

    The last batch may be smaller; no row is left out for it.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per optimizer step.
        seed: Seed of the run.
        epoch: 0-based epoch.
        lengths: Row lengths in tokens: batches then hold rows of similar length, in random order, the longest batch
            first, so that a run that does not fit in memory fails at once.
        mixture: Which rows the epoch has, when several sources are mixed by weight.
    """
    order = permutation(num_rows if mixture is None else mixture.num_positions, seed=seed, epoch=epoch)
    if mixture is not None:
        order = mixture.epoch_rows(seed=seed, epoch=epoch)[order]
    if lengths is None:
        return _cut(order, batch_size)
    length_of = np.asarray(lengths)
    batches: list[npt.NDArray[np.int64]] = []
    for group in _cut(order, batch_size * _BATCHES_PER_GROUP):
        batches += _cut(group[np.argsort(-length_of[group], kind="stable")], batch_size)
    shuffled = [batches[i] for i in permutation(len(batches), seed=seed, epoch=epoch, stream=1)]
    longest = max(range(len(shuffled)), key=lambda i: int(length_of[shuffled[i]].max()))
    shuffled.insert(0, shuffled.pop(longest))
    return shuffled


def _cut(order: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


class BatchPlan:
    """Which rows each optimizer step of a run sees."""

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int,
        group_lengths: Sequence[int] | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        """Plan over `num_rows` > 0 rows.

        Args:
            num_rows: How many rows there are.
            batch_size: Rows per optimizer step.
            seed: Seed of the run.
            group_lengths: Length of each row in tokens; turns on batches of similar length.
            mixture: Which rows each epoch has; None: every row once.
        """
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-(num_rows if mixture is None else mixture.num_positions) // batch_size)
        self._mixture = mixture
        self._lengths = group_lengths
        self._cached: tuple[int, list[npt.NDArray[np.int64]]] | None = None

    def total_steps(self, *, num_epochs: float, max_steps: int | None) -> int:
        """Optimizer steps of the run; a part of an epoch is rounded up to whole steps."""
        if max_steps is not None:
            return max_steps
        return max(1, int(np.ceil(round(num_epochs * self.steps_per_epoch, 6))))

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Row indices of 0-based step `step`."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            batches = epoch_batches(
                self.num_rows,
                self.batch_size,
                seed=self.seed,
                epoch=epoch,
                lengths=self._lengths,
                mixture=self._mixture,
            )
            self._cached = (epoch, batches)
        return self._cached[1][index]
