"""The search on tries small enough to follow by hand, and against brute force on random ones."""

import random

import pytest

from loratory.infer.label_search import LabelSearch
from loratory.infer.label_set import LabelSet, build_trie


def labels_of(*token_ids: tuple[int, ...]) -> LabelSet:
    return LabelSet(tuple(map(str, range(len(token_ids)))), token_ids)


def run(labels: LabelSet, table: dict[tuple[int, ...], dict[int, float]]) -> tuple[tuple[float, int], int]:
    """Search with log-probabilities by path; checks on the way that what it keeps is what it computed last."""
    trie = build_trie(labels)
    search = LabelSearch(trie)
    slot: list[int] = []
    num_fed = 0
    while (query := search.ask()) is not None:
        assert query.keep <= len(slot)
        fed = [trie[node].token for node in query.nodes]
        num_fed += len(fed)
        slot = slot[: query.keep] + fed
        ends = range(len(slot) - query.num_new + 1, len(slot) + 1)
        told = [
            [table[tuple(slot[:end])][token] for token in targets]
            for end, targets in zip(ends, search.targets, strict=True)
        ]
        search.tell(told)
    assert search.best is not None
    return search.best, num_fed


def test_a_certain_beginning_leaves_the_others_uncomputed() -> None:
    labels = labels_of((1, 2, 9), (3, 4, 9), (3, 5, 9))
    table = {
        (): {1: -0.1, 3: -3.0},
        (1,): {2: -0.1},
        (1, 2): {9: -0.2},
        (3,): {4: -1.0, 5: -1.0},
        (3, 4): {9: 0.0},
        (3, 5): {9: 0.0},
    }
    (logprob, label), num_fed = run(labels, table)
    assert (label, num_fed) == (0, 2)
    assert logprob == pytest.approx(-0.4)


def test_a_promising_beginning_with_a_bad_end_loses() -> None:
    labels = labels_of((1, 9), (2, 9))
    table = {(): {1: -0.2, 2: -2.0}, (1,): {9: -5.0}, (2,): {9: -0.1}}
    (logprob, label), num_fed = run(labels, table)
    assert (label, num_fed) == (1, 2)
    assert logprob == pytest.approx(-2.1)


@pytest.mark.parametrize("first", [(1, 9), (2, 9)])
def test_of_equal_labels_the_first_wins(first: tuple[int, ...]) -> None:
    second = (2, 9) if first == (1, 9) else (1, 9)
    table = {(): {1: -1.0, 2: -1.0}, (1,): {9: -1.0}, (2,): {9: -1.0}}
    assert run(labels_of(first, second), table)[0] == (-2.0, 0)


def test_a_label_that_begins_another_and_unbranched_ends() -> None:
    labels = labels_of((1, 9), (1, 2, 3, 9))
    table = {(): {1: -0.5}, (1,): {9: -2.0, 2: -0.1}, (1, 2): {3: -0.1}, (1, 2, 3): {9: -0.1}}
    (logprob, label), num_fed = run(labels, table)
    assert (label, num_fed) == (1, 3)
    assert logprob == pytest.approx(-0.8)


def test_equals_brute_force() -> None:
    chance = random.Random(3)
    for _ in range(200):
        sharpness = chance.choice([0.3, 2.0])
        found = {(*chance.choices((1, 2, 3), k=chance.randrange(1, 6)), 9) for _ in range(12)}
        labels = labels_of(*chance.sample(sorted(found), len(found)))
        table: dict[tuple[int, ...], dict[int, float]] = {}
        for ids in labels.token_ids:
            for end in range(len(ids)):
                values = table.setdefault(ids[:end], {})
                values.setdefault(ids[end], -chance.expovariate(sharpness))
        totals = [sum(table[ids[:end]][ids[end]] for end in range(len(ids))) for ids in labels.token_ids]
        (logprob, label), _ = run(labels, table)
        assert label == max(range(len(totals)), key=lambda index: totals[index])
        assert logprob == pytest.approx(max(totals))
