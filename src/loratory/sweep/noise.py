"""The A/A control: how far runs of one and the same setting lie apart, which is the least that a difference must be."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

# Student's t, two-sided 95 %, for 1 to 10 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Noise:
    """The spread of the base over seeds.

    Args:
        values: The metric with one seed each; at least two.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self._values = tuple(values)
        self._mean = mean(values)
        self._spread = stdev(values)

    def reach(self, num_seeds: int = 1) -> float:
        """How far the mean of so many more seeds of the base would lie from the base's mean, at most, 95 % of times."""
        count = len(self._values)
        return student_t(count - 1) * self._spread * math.sqrt(1 / num_seeds + 1 / count)

    def floor(self, metric: str) -> str:
        """The noise floor in words."""
        return (
            f"noise: the base itself gives {metric} {self._mean:.4f} ± {self._spread:.4f} over {len(self._values)} "
            f"seeds (from {min(self._values):.4f} to {max(self._values):.4f}); one more seed of it would lie within "
            f"{self.reach():.4f} of that (95 %)"
        )

    def verdict(self, value: float, *, maximizes: bool, num_seeds: int) -> str:
        """Whether a value is beyond the noise, in words."""
        gain = value - self._mean if maximizes else self._mean - value
        words = f"{abs(gain):.4f} {'better' if gain >= 0 else 'worse'} than the base's mean"
        if abs(gain) > self.reach(num_seeds):
            return f"that is {words}, beyond the noise"
        return f"that is {words}, within the noise: not separable from the base by these seeds"


def student_t(degrees: int) -> float:
    """Student's t, two-sided 95 %."""
    return _T[degrees - 1] if degrees <= len(_T) else 1.96 + 2.6 / degrees
