import numpy as np
import pytest

from loratory.engine.order import BatchPlan, epoch_batches
from loratory.engine.permutation import permutation


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = permutation(50, seed=1, epoch=0)
    np.random.seed(7)
    assert (permutation(50, seed=1, epoch=0) == first).all()
    assert (permutation(50, seed=2, epoch=0) != first).any()
    assert (permutation(50, seed=1, epoch=1) != first).any()


def test_order_is_this_one_on_every_machine_and_version() -> None:
    assert permutation(10, seed=42, epoch=0).tolist() == [4, 8, 1, 9, 3, 6, 0, 7, 2, 5]


@pytest.mark.parametrize("lengths", [None, [i % 17 + 1 for i in range(103)]])
def test_every_row_once_per_epoch_and_the_rest_is_kept(lengths: list[int] | None) -> None:
    for epoch in range(3):
        batches = epoch_batches(103, 8, seed=5, epoch=epoch, lengths=lengths)
        assert len(batches) == 13
        assert sorted(len(b) for b in batches) == [7] + [8] * 12
        assert sorted(np.concatenate(batches).tolist()) == list(range(103))


def test_grouping_puts_like_lengths_together_and_the_longest_batch_first() -> None:
    lengths = [int(n) for n in permutation(400, seed=9, epoch=0) + 1]
    batches = epoch_batches(400, 8, seed=5, epoch=2, lengths=lengths)
    spread = np.mean([max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches])
    mixed = epoch_batches(400, 8, seed=5, epoch=2)
    assert spread < 0.1 * np.mean([max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in mixed])
    assert max(lengths[i] for i in batches[0]) == 400
    again = epoch_batches(400, 8, seed=5, epoch=2, lengths=lengths)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_a_plan_reaches_any_step_directly() -> None:
    walked = BatchPlan(10, 4, seed=3)
    rows = [walked.rows(step).tolist() for step in range(9)]
    assert [len(r) for r in rows] == [4, 4, 2] * 3
    assert BatchPlan(10, 4, seed=3).rows(7).tolist() == rows[7]


def test_steps_of_whole_and_part_epochs() -> None:
    plan = BatchPlan(10, 4, seed=3)
    assert plan.total_steps(num_epochs=2, max_steps=None) == 6
    assert plan.total_steps(num_epochs=0.5, max_steps=None) == 2
    assert plan.total_steps(num_epochs=0.01, max_steps=None) == 1
    assert plan.total_steps(num_epochs=2, max_steps=4) == 4


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    plan = BatchPlan(3, 16, seed=0)
    assert plan.steps_per_epoch == 1
    assert sorted(plan.rows(5).tolist()) == [0, 1, 2]
