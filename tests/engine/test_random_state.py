import json
import random

import numpy as np
import torch

from loratory.engine import random_state


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.rand(2).tolist()]


def test_restored_generators_go_on_as_they_would_have() -> None:
    random_state.seed_everything(3)
    draw()
    state = random_state.capture()
    expected = [draw() for _ in range(3)]
    random_state.seed_everything(99)
    numbers = json.loads(json.dumps(state.numbers))
    random_state.restore(random_state.RandomState(numbers, state.tensors))
    assert [draw() for _ in range(3)] == expected


def test_capture_draws_nothing() -> None:
    random_state.seed_everything(3)
    random_state.capture()
    first = draw()
    random_state.seed_everything(3)
    assert draw() == first
