import numpy as np

from loratory.data.sequence import TokenSequence
from loratory.engine.rows import MicroBatching, Row


def row(num_tokens: int) -> Row:
    sequence = TokenSequence(
        np.arange(num_tokens, dtype=np.int64), np.zeros(num_tokens, dtype=np.float32), prompt_length=1
    )
    return Row((sequence,), f"rows.json:{num_tokens}", 1.0)


def sizes(batching: MicroBatching, *lengths: int) -> list[list[int]]:
    return [[r.num_tokens for r in part] for part in batching.cut([row(n) for n in lengths])]


def test_by_rows() -> None:
    assert sizes(MicroBatching(2, None), 5, 5, 5) == [[5, 5], [5]]


def test_by_tokens_greedy_and_in_order() -> None:
    assert sizes(MicroBatching(None, 10), 4, 6, 1, 9, 3) == [[4, 6], [1, 9], [3]]


def test_one_long_row_may_exceed_the_budget() -> None:
    assert sizes(MicroBatching(None, 10), 3, 25, 3) == [[3], [25], [3]]


def test_both_limits() -> None:
    assert sizes(MicroBatching(2, 10), 1, 1, 1, 9, 2) == [[1, 1], [1, 9], [2]]


def test_nothing_gives_no_pass() -> None:
    assert sizes(MicroBatching(2, 10)) == []
