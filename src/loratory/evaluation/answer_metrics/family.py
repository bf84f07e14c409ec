"""What a family of metrics is: names with their definitions, and statistics of each row that sum to the values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Combine = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's name and meaning.

    Attributes:
        name: As users know it.
        id: The name with what defines the number: two numbers are comparable when their ids are equal.
        words: What is measured, in words, with the versions of the libraries that compute it.
    """

    name: str
    id: str
    words: str


def mean_of(sums_RK: FloatArray, counts_R: FloatArray) -> FloatArray:
    """The plain mean over rows of a single statistic."""
    means_R: FloatArray = sums_RK[:, 0] / counts_R
    return means_R


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What each row contributes.

    Attributes:
        values_NK: K numbers for each row; NaN in rows that the metric leaves out.
        combine: Sums over rows [R, K] and numbers of rows [R] to R values in percent; R is the number of resamples.
    """

    values_NK: FloatArray
    combine: Combine = mean_of

    @classmethod
    def of_rows(cls, values: Sequence[float]) -> "Statistics":
        """A metric that is the mean of its rows' own values, percent."""
        return cls(np.asarray(values, dtype=np.float64)[:, None])


class Family(Protocol):
    """Metrics that are computed together."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        ...

    def fits(self, labels: Sequence[str]) -> bool:
        """Whether labels look like what the family is for, so that it is computed unasked."""
        ...

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metrics asked for.

        Raises:
            MissingExtraError: A library is not installed.
        """
        ...
