"""One measured number with all that is needed to read it: unit, definition, how many went into it, and its spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """How repeated measurements scatter, in the unit of their measure.

    Attributes:
        min: Least.
        q1: First quartile.
        median: Median.
        q3: Third quartile.
        max: Greatest.
    """

    min: float
    q1: float
    median: float
    q3: float
    max: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of an evaluation.

    Attributes:
        name: The metric with its definition's parameters, such as `perplexity@window=128,stride=128,…`: two numbers
            are comparable when their names are equal.
        on: What it was measured on: a text, a task, a batch size; empty when nothing is left to say.
        value: The number.
        unit: Its unit.
        n: How many went into it.
        n_of: What `n` counts.
        low: Lower end of the interval, or None.
        high: Upper end of the interval, or None.
        interval: What the interval is, or None when the number is exact.
        definition: What was measured, in words.
        spread: Scatter of repeated measurements, or None.
    """

    name: str
    on: str
    value: float
    unit: str
    n: int
    n_of: str
    low: float | None
    high: float | None
    interval: str | None
    definition: str
    spread: Spread | None = None


def exact(name: str, value: float, unit: str, definition: str, *, on: str = "") -> Measure:
    """A number that is counted, not estimated."""
    return Measure(
        name=name, on=on, value=value, unit=unit, n=1, n_of="counts", low=None, high=None, interval=None,
        definition=definition,
    )  # fmt: skip


def median_of(name: str, values: Sequence[float], unit: str, definition: str, *, on: str, n_of: str) -> Measure:
    """The median of repeated measurements with their quartiles as interval and their whole spread."""
    low, q1, middle, q3, high = (float(x) for x in np.quantile(np.asarray(values), [0, 0.25, 0.5, 0.75, 1]))
    return Measure(
        name=name, on=on, value=middle, unit=unit, n=len(values), n_of=n_of, low=q1, high=q3,
        interval=f"quartiles over {n_of}", definition=definition, spread=Spread(low, q1, middle, q3, high),
    )  # fmt: skip
