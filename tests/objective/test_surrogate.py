"""Clipping by hand: values, and where the gradient ends."""

import math

import pytest
import torch

from loratory.objective.surrogate import clipped_surrogate, clipped_value_loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "is_clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.4, True),  # a good token is not pushed beyond 1.2
        (0.5, 2.0, -1.0, False),  # a good token that has become rare is pushed back
        (0.5, -2.0, 1.6, True),  # a bad token is not pushed below 0.8
        (1.5, -2.0, 3.0, False),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, is_clipped: bool) -> None:
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    surrogate = clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), low=0.2)
    assert surrogate.loss.item() == pytest.approx(loss)
    assert bool(surrogate.is_clipped) == is_clipped
    surrogate.loss.sum().backward()
    assert log_ratio.grad is not None
    assert float(log_ratio.grad) == pytest.approx(0.0 if is_clipped else -ratio * advantage)


def test_more_room_upwards() -> None:
    log_ratio = torch.tensor([1.25, 0.75]).log()
    surrogate = clipped_surrogate(log_ratio, torch.tensor([1.0, -1.0]), low=0.2, high=0.28)
    assert surrogate.is_clipped.tolist() == [False, True]
    torch.testing.assert_close(surrogate.loss, torch.tensor([-1.25, 0.8]))


def test_value_loss_by_hand() -> None:
    values = torch.tensor([1.0, 0.1], requires_grad=True)
    returns, old = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])
    # First: held at 0.2, error 1.8 instead of 1: no gradient from there. Second: not held.
    loss = clipped_value_loss(values, returns, old_values=old, clip=0.2)
    torch.testing.assert_close(loss, torch.tensor([1.8**2 / 2, 0.1**2 / 2]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 0.1]))
    free = clipped_value_loss(values, returns, old_values=old, clip=None)
    torch.testing.assert_close(free.detach(), torch.tensor([0.5, 0.005]))
