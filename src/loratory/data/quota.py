"""Quotas: how many rows of each class a subset of any size gets.

One sequence of classes is laid down so that each of its beginnings holds every class within one row of its share
(R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980). A subset of n rows takes the first n
places of that sequence: exact at every size, and smaller subsets are within larger ones. Rounding each size apart, by
largest remainder, would not nest: a class may lose a row when the subset grows (the Alabama paradox).
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from fractions import Fraction


def nested_quotas(counts: Mapping[str, int], sizes: Sequence[int]) -> dict[int, dict[str, int]]:
    """Size -> class -> rows; a class never loses rows as the size grows.

    Exact whole-number arithmetic, ties to the class that stands first, so the quotas are the same everywhere. With
    c rows of N in a class, its quota q at size n keeps |q - n c / N| < 1.

    Args:
        counts: Class -> rows there are.
        sizes: Sizes wanted, none above the sum of the counts.
    """
    classes = [name for name, count in counts.items() if count > 0]
    numbers = [counts[name] for name in classes]
    total = sum(numbers)
    assert all(0 <= size <= total for size in sizes)
    # The j-th row of a class is released once its share has reached what Tijdeman's bound asks for, and is due when
    # waiting longer would break it; among released rows the earliest due is next. Everything is scaled by `scale`.
    slack = max(2 * len(classes) - 2, 1)
    given = [0] * len(classes)
    result: dict[int, dict[str, int]] = {0: dict.fromkeys(counts, 0)} if 0 in sizes else {}
    wanted = set(sizes)
    released: list[tuple[int, int]] = []
    pending: dict[int, list[int]] = {}
    for index in range(len(classes)):
        pending.setdefault(_release(numbers[index], total, slack, 0), []).append(index)
    for place in range(1, max(sizes, default=0) + 1):
        for index in pending.pop(place, ()):
            insort(released, (_due(numbers[index], total, slack, given[index]), index))
        assert released, "by Tijdeman's theorem a class is always there"
        _, index = released.pop(0)
        given[index] += 1
        if given[index] < numbers[index]:
            at = max(_release(numbers[index], total, slack, given[index]), place + 1)
            pending.setdefault(at, []).append(index)
        if place in wanted:
            result[place] = {**dict.fromkeys(counts, 0), **dict(zip(classes, given, strict=True))}
    return result


def _release(count: int, total: int, slack: int, given: int) -> int:
    """First place n with n·count/total - given >= 1/slack."""
    return -(-(given * slack + 1) * total // (slack * count))


def _due(count: int, total: int, slack: int, given: int) -> int:
    """Last place n with n·count/total - given <= 1 - 1/slack, after which the class must have its next row."""
    return ((given + 1) * slack - 1) * total // (slack * count) + 1


def largest_deviation(counts: Mapping[str, int], quotas: Mapping[str, int]) -> float:
    """The largest distance, in rows, between a class's quota and its share."""
    total, size = sum(counts.values()), sum(quotas.values())
    if total == 0:
        return 0.0
    return max(abs(quotas.get(name, 0) * total - count * size) for name, count in counts.items()) / total


def largest_remainder(weights: Sequence[int | Fraction], total: int) -> list[int]:
    """Split `total` in proportion to the weights; what rounding down leaves goes to the largest remainders.

    For one split alone; sizes that have to nest take `nested_quotas`. Exact (rational) arithmetic, ties to the earlier
    weight, so the split is the same everywhere.
    """
    whole = Fraction(sum(weights))
    ideal = [weight * total / whole for weight in weights]
    quotas = [int(share) for share in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda i: (quotas[i] - ideal[i], i))
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas
