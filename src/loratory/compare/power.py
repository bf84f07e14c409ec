"""How many rows a difference would need, and which difference the rows at hand could have shown."""

import math
from statistics import NormalDist

POWER = 0.8
SIGNIFICANCE = 0.05


def rows_needed(difference: float, row_sd: float, *, num_pairs: int = 1) -> int | None:
    """Rows for which a difference as large as the observed one is found with probability `POWER`.

    For right-or-wrong answers this is Connor's formula (Biometrics 43, 1987) for McNemar's test: with the rate p of
    discordant rows and the difference d, n = (z_a sqrt(p) + z_b sqrt(p - d²))² / d². Here p is the mean square of the
    rows' differences and p - d² their variance, so the formula serves graded metrics too. It takes what was observed
    as the truth: where the difference is uncertain, so is the number.

    Args:
        difference: Mean over rows of the difference, in percent points.
        row_sd: Standard deviation over rows of the difference, percent points.
        num_pairs: Pairs compared together; the level is shared among them (Bonferroni, Holm's first step).

    Returns:
        The number of rows; None when the difference is zero.
    """
    if difference == 0:
        return None
    z_a, z_b = _quantiles(num_pairs)
    rate = row_sd**2 + difference**2
    return math.ceil((z_a * math.sqrt(rate) + z_b * row_sd) ** 2 / difference**2)


def detectable_difference(row_sd: float, num_rows: int, *, num_pairs: int = 1) -> float:
    """The difference in percent points that `num_rows` rows show with probability `POWER`, by normal approximation."""
    z_a, z_b = _quantiles(num_pairs)
    return (z_a + z_b) * row_sd / math.sqrt(num_rows)


def _quantiles(num_pairs: int) -> tuple[float, float]:
    normal = NormalDist()
    return normal.inv_cdf(1 - SIGNIFICANCE / (2 * max(1, num_pairs))), normal.inv_cdf(POWER)
