import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_batches import batches, trained_tail

from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.tree import TokenTree


def path_to(tree: TokenTree, flat_index: int) -> list[int]:
    """Token ids from the root to a token, walked one segment at a time."""
    index = next(i for i, s in enumerate(tree.segments) if s.start <= flat_index < s.stop)
    path = tree.tokens_T[tree.segments[index].start : flat_index + 1].tolist()
    while (index := tree.segments[index].parent) >= 0:
        segment = tree.segments[index]
        path = tree.tokens_T[segment.start : segment.stop].tolist() + path
    return path


def uses(tree: TokenTree) -> list[tuple[int, tuple[int, ...], int, float]]:
    """(sequence, context of the prediction, target, weight) of each use."""
    return sorted(
        (int(s), tuple(path_to(tree, int(tree.predictors_N[n]))), int(tree.targets_N[n]), float(w))
        for n, s, w in zip(tree.label_M, tree.sequence_M, tree.weight_M, strict=True)
    )


def expected_uses(sequences: list[TokenSequence]) -> list[tuple[int, tuple[int, ...], int, float]]:
    return sorted(
        (s, tuple(sequence.token_ids[:i].tolist()), int(sequence.token_ids[i]), float(sequence.weights[i]))
        for s, sequence in enumerate(sequences)
        for i in np.flatnonzero(sequence.weights)
    )


def test_shared_template_stands_once() -> None:
    template = list(range(100, 140))
    batch = [trained_tail([*template, 1, 2, 3], 42), trained_tail([*template, 4, 5, 6, 7], 43)]
    tree = build_tree(batch)
    assert [(s.parent, s.stop - s.start) for s in tree.segments] == [(-1, 40), (0, 2), (0, 3)]
    assert tree.positions_T.tolist() == [*range(40), 40, 41, 40, 41, 42]
    assert tree.num_path_tokens == 43 + 44
    assert uses(tree) == expected_uses(batch)


def test_three_levels() -> None:
    system, left, right = list(range(50)), list(range(200, 230)), list(range(300, 330))
    batch = [trained_tail([*system, *prompt, answer, 9], 80) for prompt in (left, right) for answer in (7, 8)]
    tree = build_tree(batch)
    assert [s.parent for s in tree.segments] == [-1, 0, 1, 1, 0, 4, 4]
    assert uses(tree) == expected_uses(batch)


def test_first_tokens_of_children_are_predicted_by_the_parents_last_token() -> None:
    prompt = list(range(30))
    tree = build_tree([trained_tail([*prompt, 7, 1], 30), trained_tail([*prompt, 8, 2], 30)])
    assert tree.predictors_N.tolist().count(29) == 2
    assert sorted(tree.targets_N[tree.predictors_N == 29].tolist()) == [7, 8]


def test_one_token_answers_need_no_segment_of_their_own() -> None:
    prompt = list(range(30))
    tree = build_tree([trained_tail([*prompt, 7], 30), trained_tail([*prompt, 8], 30)])
    assert len(tree.segments) == 1
    assert tree.num_tokens == 30


def test_identical_sequences_add_their_weights() -> None:
    batch = [trained_tail([1, 2, 3, 4], 2)] * 3
    tree = build_tree(batch)
    assert tree.num_tokens == 3
    assert tree.weights_N.tolist() == [3.0, 3.0]
    assert tree.weight_sum == 6.0
    assert tree.sum_by_sequence(torch.tensor([1.0, 10.0])).tolist() == [11.0, 11.0, 11.0]
    assert uses(tree) == expected_uses(batch)


def test_label_on_a_shared_token_carries_the_weight_of_every_use() -> None:
    shared = list(range(40))
    batch = [
        trained_tail([*shared, 50, 51], 20),
        trained_tail([*shared, 60, 61], 20),
        trained_tail([*shared, 70, 71], 30),
    ]
    tree = build_tree(batch)
    weight_at = {int(t): float(w) for t, w in zip(tree.targets_N, tree.weights_N, strict=True)}
    assert weight_at[25] == 2.0
    assert weight_at[35] == 3.0
    assert weight_at[50] == 1.0


def test_sequence_that_is_a_prefix_of_another() -> None:
    long = list(range(40))
    batch = [trained_tail(long, 10), trained_tail(long[:21], 10), trained_tail([*long[:30], 99, 98], 31)]
    assert uses(build_tree(batch)) == expected_uses(batch)
    assert uses(build_tree(batch, min_saved_tokens=1)) == expected_uses(batch)


def test_small_gain_is_not_shared() -> None:
    batch = [trained_tail([1, 2, 3, 4, 5, 6], 3), trained_tail([1, 2, 3, 7, 8, 9], 3)]
    assert [s.parent for s in build_tree(batch).segments] == [-1, -1]
    assert [s.parent for s in build_tree(batch, min_saved_tokens=3).segments] == [-1, 0, 0]
    assert [s.parent for s in build_tree(batch, min_saved_tokens=4).segments] == [-1, -1]


def test_small_split_below_a_shared_template_keeps_its_copies() -> None:
    template = list(range(100, 140))
    batch = [trained_tail([*template, 1, 2, tail, 3], 43) for tail in (10, 11)] + [
        trained_tail([*template, 5, 6, 3], 42)
    ]
    tree = build_tree(batch)
    assert [s.parent for s in tree.segments] == [-1, 0, 0, 0]
    assert uses(tree) == expected_uses(batch)


def test_nothing_shared_on_request() -> None:
    batch = [trained_tail([1, 2, 3, 4], 2)] * 2
    tree = build_tree(batch, share=False)
    assert [s.parent for s in tree.segments] == [-1, -1]
    assert uses(tree) == expected_uses(batch)


def test_tail_that_predicts_nothing_is_dropped() -> None:
    weights = np.array([0, 0, 1, 0, 0], dtype=np.float32)
    tree = build_tree([TokenSequence(np.arange(5), weights, 2)])
    assert tree.tokens_T.tolist() == [0, 1]


def test_sequences_without_labels_leave_no_tokens() -> None:
    tree = build_tree([trained_tail([1, 2, 3], 3), trained_tail([4, 5, 6], 1)])
    assert tree.tokens_T.tolist() == [4, 5]
    assert tree.sequence_M.tolist() == [1, 1]
    assert tree.num_sequences == 2
    assert build_tree([trained_tail([1, 2, 3], 3)]).num_tokens == 0


@pytest.mark.parametrize("share", [True, False])
@settings(max_examples=150, deadline=None)
@given(batch=batches(), min_saved_tokens=st.integers(1, 6))
def test_any_tree_holds_exactly_the_batch(batch: list[TokenSequence], min_saved_tokens: int, share: bool) -> None:
    tree = build_tree(batch, share=share, min_saved_tokens=min_saved_tokens)
    assert uses(tree) == expected_uses(batch)
    bounds = [(s.start, s.stop) for s in tree.segments]
    assert [stop for _, stop in bounds] == [start for start, _ in bounds[1:]] + [tree.num_tokens][: len(bounds)]
    assert all(start < stop for start, stop in bounds)
    assert all(s.parent < i for i, s in enumerate(tree.segments))
    summed = torch.zeros(len(tree.targets_N), dtype=torch.float64).index_add(0, tree.label_M, tree.weight_M.double())
    torch.testing.assert_close(tree.weights_N.double(), summed)
    keys = list(zip(tree.predictors_N.tolist(), tree.targets_N.tolist(), strict=True))
    assert len(keys) == len(set(keys))
    if not share:
        assert tree.num_tokens == sum(int(np.flatnonzero(s.weights).max(initial=0)) for s in batch)
