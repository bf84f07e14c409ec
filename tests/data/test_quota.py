"""Quotas: exact, within one row of the share at every size, never shrinking as the size grows."""

from hypothesis import given
from hypothesis import strategies as st

from loratory.data.quota import largest_deviation, largest_remainder, nested_quotas

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(0, 60), min_size=1, max_size=12)


def test_by_hand() -> None:
    assert nested_quotas({"a": 6, "b": 3, "c": 1}, [10, 5, 0]) == {
        0: {"a": 0, "b": 0, "c": 0},
        5: {"a": 3, "b": 2, "c": 0},
        10: {"a": 6, "b": 3, "c": 1},
    }


def test_the_alabama_paradox_does_not_happen() -> None:
    # Largest remainder gives class c 2 rows of 10 and 1 row of 11.
    counts = {"a": 60, "b": 60, "c": 20}
    quotas = nested_quotas(counts, [10, 11])
    assert quotas[10]["c"] <= quotas[11]["c"]


@given(counts=COUNTS)
def test_every_size_is_exact_within_one_row_and_nested(counts: dict[str, int]) -> None:
    total = sum(counts.values())
    quotas = nested_quotas(counts, range(total + 1))
    before = dict.fromkeys(counts, 0)
    for size in range(total + 1):
        assert sum(quotas[size].values()) == size
        assert largest_deviation(counts, quotas[size]) < 1
        assert all(before[name] <= quotas[size][name] <= counts[name] for name in counts)
        before = quotas[size]
    assert before == counts


def test_largest_deviation_by_hand() -> None:
    assert largest_deviation({"a": 3, "b": 1}, {"a": 1, "b": 1}) == 0.5


def test_largest_remainder_by_hand() -> None:
    assert largest_remainder([6, 3, 1], 5) == [3, 2, 0]
    assert largest_remainder([1, 1, 1], 2) == [1, 1, 0]
    assert largest_remainder([2, 2], 4) == [2, 2]
