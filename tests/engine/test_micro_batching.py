import random

import numpy as np
import pytest

from loratory.data.sequence import TokenSequence
from loratory.engine.micro_batching import MicroBatching
from loratory.objective.row import Row
from loratory.tree.build import build_tree


def sequence(*ids: int) -> TokenSequence:
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[1:] = 1
    return TokenSequence(np.array(ids, dtype=np.int64), weights, prompt_length=1)


def row(num_tokens: int, *, first: int = 0) -> Row:
    return Row((sequence(*range(first, first + num_tokens)),), f"rows.json:{num_tokens}", 1.0)


def sizes(batching: MicroBatching, *lengths: int) -> list[list[int]]:
    return [[r.num_tokens for r in part] for part in batching.cut([row(n) for n in lengths])]


def test_by_rows() -> None:
    assert sizes(MicroBatching(2, None), 5, 5, 5) == [[5, 5], [5]]


def test_by_padded_tokens_greedy_and_in_order() -> None:
    # 4 and 6 padded are 12, with a row of 1 they are 18.
    assert sizes(MicroBatching(None, 12), 4, 6, 1, 9, 3, 3) == [[4, 6], [1], [9], [3, 3]]


def test_one_long_row_may_exceed_the_budget() -> None:
    assert sizes(MicroBatching(None, 10), 3, 25, 3) == [[3], [25], [3]]


def test_both_limits() -> None:
    assert sizes(MicroBatching(2, 18), 1, 1, 1, 9, 9) == [[1, 1], [1, 9], [9]]


def test_nothing_gives_no_pass() -> None:
    assert sizes(MicroBatching(2, 10)) == []


def test_a_shared_prefix_counts_once() -> None:
    rows = [Row((sequence(*range(100), 200 + i, 300 + i),), "", 1.0) for i in range(10)]
    batching = MicroBatching(None, 110, shares_prefixes=True)
    assert batching.num_tokens(rows) == 100 + 10 * 2
    assert [len(part) for part in batching.cut(rows)] == [5, 5]
    assert [len(part) for part in MicroBatching(None, 110).cut(rows)] == [1] * 10


def test_the_sides_of_a_pair_share_their_prompt() -> None:
    pairs = [Row((sequence(*prompt, 900), sequence(*prompt, 901)), "", 1.0) for prompt in (range(50), range(100, 160))]
    assert MicroBatching(None, None, shares_prefixes=True).num_tokens(pairs) == 52 + 62


@pytest.mark.parametrize("seed", range(5))
def test_the_count_covers_the_tree(seed: int) -> None:
    generator = random.Random(seed)
    roots = [[generator.randrange(50) for _ in range(30)] for _ in range(3)]
    rows = [
        Row((sequence(*generator.choice(roots), *(generator.randrange(50) for _ in range(9))),), "", 1.0)
        for _ in range(12)
    ]
    counted = MicroBatching(None, None, shares_prefixes=True).num_tokens(rows)
    assert build_tree([r.sequences[0] for r in rows]).num_tokens <= counted <= 12 * 39


@pytest.mark.parametrize("shares", [False, True])
def test_the_fullest_pass_is_as_large_as_any(shares: bool) -> None:
    generator = random.Random(3)
    rows = [row(generator.randint(1, 40), first=generator.choice([0, 1000, 2000])) for _ in range(60)]
    batching = MicroBatching(4, 90, shares_prefixes=shares)
    fullest = batching.num_tokens(batching.fullest(rows, max_rows=8))
    for _ in range(50):
        generator.shuffle(rows)
        assert max(batching.num_tokens(part) for part in batching.cut(rows)) <= fullest + 8  # greedy, not exact
    assert len(batching.fullest(rows, max_rows=1)) == 1
    assert MicroBatching(None, 5).fullest(rows, max_rows=8)[0].num_tokens == max(r.num_tokens for r in rows)
