"""Several sources in one epoch by weight: a pure function of (seed, epoch), exact to one row per source.

Each source is an endless sequence of permutations of its rows, and each epoch takes the next piece of it. So over the
epochs every row of a source is used equally often, and resume needs nothing but the epoch's number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from loratory.config.data import MixStrategy
from loratory.engine.permutation import permutation
from loratory.errors import ConfigError

_FIRST_STREAM = 16  # below are the streams of the row order


@dataclass(frozen=True, slots=True)
class Mixture:
    """How many rows of each source an epoch has.

    Attributes:
        sizes: Rows of each source; the sources' rows stand one after the other in the list of all rows.
        quotas: Rows that one epoch takes from each source.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]

    @property
    def num_positions(self) -> int:
        """Rows of one epoch."""
        return sum(self.quotas)

    def epoch_rows(self, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """Indices, in the list of all rows, of one epoch's rows; ordered by source, not yet shuffled."""
        pieces, offset = [], 0
        for source, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            positions = np.arange(epoch * quota, (epoch + 1) * quota)
            rows = np.empty(quota, dtype=np.int64)
            for cycle in np.unique(positions // size) if quota else ():
                order = permutation(size, seed=seed, epoch=int(cycle), stream=_FIRST_STREAM + source)
                here = positions // size == cycle
                rows[here] = order[positions[here] % size]
            pieces.append(rows + offset)
            offset += size
        return np.concatenate(pieces)


def make_mixture(strategy: MixStrategy, sizes: Sequence[int], weights: Sequence[float] | None) -> Mixture | None:
    """The mixture of sources of these sizes; None for 'concat', where every row stands once in an epoch.

    Args:
        strategy: 'concat', 'interleave_under' (no row stands twice in an epoch) or 'interleave_over' (every row
            stands at least once).
        sizes: Rows of each source, each above 0.
        weights: Share of each source in any unit; None for equal shares.

    Raises:
        ConfigError: If weights are given without interleaving, or do not fit the sources.
    """
    if strategy == "concat":
        if weights is not None:
            raise ConfigError("data.mix_weights: have no effect under data.mix_strategy concat; use interleave_over")
        return None
    given = [1.0] * len(sizes) if weights is None else list(weights)
    if len(given) != len(sizes):
        raise ConfigError(
            f"data.mix_weights: {len(given)} weights for {len(sizes)} sources of data.train; give one each"
        )
    if not all(0 < weight < float("inf") for weight in given):
        raise ConfigError(f"data.mix_weights: got {given}; each must be a number above 0")
    exact = [Fraction(weight) for weight in given]
    shares = [weight / sum(exact) for weight in exact]
    lengths = [size / share for size, share in zip(sizes, shares, strict=True)]
    num_positions = min(lengths) if strategy == "interleave_under" else max(lengths)
    # The source that sets the length gives exactly its rows; the others are rounded to the nearest whole row.
    quotas = tuple(max(1, round(share * num_positions)) for share in shares)
    return Mixture(tuple(sizes), quotas)
