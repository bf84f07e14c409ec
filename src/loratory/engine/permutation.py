"""Permutations that depend on integers alone: the same on every machine and version.

Only raw words of PCG64 are used, whose stream numpy guarantees across versions, never a distribution's.
"""

import numpy as np
import numpy.typing as npt


def permutation(num_rows: int, *, seed: int, epoch: int, stream: int = 0) -> npt.NDArray[np.int64]:
    """A permutation of 0..num_rows-1 that depends on the arguments alone.

    Args:
        num_rows: How many rows.
        seed: Seed of the run.
        epoch: 0-based pass over the rows.
        stream: Separates several permutations of one epoch.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed, epoch, stream])).random_raw(num_rows)
    return np.argsort(np.asarray(words), kind="stable").astype(np.int64)
