"""Who goes on, by hand."""

from loratory.sweep.halving import promoted, rungs


def test_steps_grow_by_the_factor_and_end_with_the_run() -> None:
    assert rungs(10, 3, 90) == (10, 30, 90)
    assert rungs(10, 3, 100) == (10, 30, 90, 100)
    assert rungs(5, 2, 6) == (5, 6)


def test_the_best_of_each_three_go_on_and_of_equals_the_first() -> None:
    assert promoted({0: 1.0, 1: 0.5, 2: 0.7, 3: 0.5, 4: 2.0, 5: 0.9}, 3) == [1, 3]
    assert promoted({0: 1.0, 1: 1.0, 2: 1.0}, 3) == [0]
    assert promoted({4: 1.0}, 3) == [4]
