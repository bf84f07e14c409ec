"""KL estimates against the exact divergence of two small distributions, and the controller by hand."""

import pytest
import torch

from loratory.objective.kl import KlController, estimate_kl

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_estimates_are_unbiased(estimator: str) -> None:
    exact = (P * (P / Q).log()).sum()
    expected = (P * estimate_kl(P.log(), Q.log(), estimator=estimator)).sum()  # type: ignore[arg-type]
    torch.testing.assert_close(expected, exact)


def test_values_by_hand() -> None:
    k1 = estimate_kl(torch.tensor(-1.0), torch.tensor(-3.0), estimator="k1")
    assert float(k1) == 2.0
    k3 = estimate_kl(torch.tensor(-1.0), torch.tensor(-3.0), estimator="k3")
    assert float(k3) == pytest.approx(0.1353353 - 1 + 2, rel=1e-6)
    assert bool((estimate_kl(P.log(), Q.log(), estimator="k3") >= 0).all())
    assert bool((estimate_kl(P.log(), Q.log(), estimator="k1") < 0).any())


def test_no_distance_no_gradient() -> None:
    nats = torch.tensor([-1.0, -2.0], requires_grad=True)
    estimate_kl(nats, nats.detach(), estimator="k3").sum().backward()  # type: ignore[no-untyped-call]
    assert nats.grad is not None
    assert nats.grad.tolist() == [0.0, 0.0]


def test_controller_by_hand() -> None:
    controller = KlController(0.1, target=6.0, horizon=1000)
    controller.update(6.6, num_answers=100)  # error 0.1: times 1 + 0.1 * 100 / 1000
    assert controller.coefficient == pytest.approx(0.101)
    controller.update(60.0, num_answers=100)  # held at 0.2
    assert controller.coefficient == pytest.approx(0.101 * 1.02)
    controller.update(0.0, num_answers=100)  # held at -0.2
    assert controller.coefficient == pytest.approx(0.101 * 1.02 * 0.98)


def test_fixed_controller_stays() -> None:
    controller = KlController(0.1)
    controller.update(100.0, num_answers=100)
    assert controller.coefficient == 0.1
