import math

import pytest

from loratory.config import TrainConfig
from loratory.engine.schedule import RateSchedule, make_schedule


def test_linear_by_hand() -> None:
    schedule = RateSchedule("linear", total_steps=6, warmup_steps=2)
    assert [schedule.factor(s) for s in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_by_hand() -> None:
    schedule = RateSchedule("cosine", total_steps=5, warmup_steps=1)
    expected = [1.0, 1.0, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    assert [schedule.factor(s) for s in range(5)] == pytest.approx(expected, abs=1e-12)


def test_constant_by_hand() -> None:
    schedule = RateSchedule("constant", total_steps=4, warmup_steps=2)
    assert [schedule.factor(s) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("ratio", "steps", "total", "expected"),
    [(0.03, None, 100, 3), (0.03, None, 10, 1), (0.03, 7, 100, 7), (0, None, 9, 0)],
)
def test_warmup(ratio: float, steps: int | None, total: int, expected: int) -> None:
    assert make_schedule(TrainConfig(warmup_ratio=ratio, warmup_steps=steps), total).warmup_steps == expected


def test_a_warmup_longer_than_the_run_only_rises() -> None:
    schedule = make_schedule(TrainConfig(warmup_steps=10), 4)
    assert [schedule.factor(s) for s in range(4)] == [0.1, 0.2, 0.3, 0.4]
