"""The space of a study: strict reading, grids, draws."""

import pytest

from loratory.errors import ConfigError
from loratory.sweep.space import draws, grid, read_space


def test_a_grid_has_every_combination_with_the_last_axis_fastest() -> None:
    axes = read_space({"adapter.rank": [4, 8], "train.learning_rate": [0.1, 0.2]}, needs_choices=True)
    found = [tuple(params.values()) for params in grid(axes)]
    assert found == [(4, 0.1), (4, 0.2), (8, 0.1), (8, 0.2)]


def test_more_draws_begin_with_the_fewer_and_stay_in_range() -> None:
    axes = read_space({"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, needs_choices=False)
    many = draws(axes, 20, seed=3)
    assert many[:5] == draws(axes, 5, seed=3)
    assert all(1e-4 <= params["train.learning_rate"] <= 1e-2 for params in many)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"adapter.rnk": [4]}, "adapter.rank"),
        ({"adapter.rank": [4, 4]}, "different values"),
        ({"adapter.rank": {"low": 8, "high": 4}}, "low below high"),
        ({"train.seed": [1, 2]}, "sweep.seeds"),
        ({}, "empty"),
    ],
)
def test_a_wrong_axis_is_refused_in_words(raw: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_space(raw, needs_choices=False)
