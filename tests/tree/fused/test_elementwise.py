"""Norm, rotary embedding and activations against plain torch and its autograd."""

import pytest
import torch

from loratory.tree.fused.elementwise import (
    activate,
    activate_backward,
    rms_norm,
    rms_norm_backward,
    rms_scale,
    rotate,
)
from loratory.tree.fused.weights import NormWeights

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_rms_norm_by_hand() -> None:
    norm = NormWeights(torch.tensor([1.0, 2.0], dtype=torch.float64), eps=0.0)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    out = rms_norm(x, rms_scale(x, norm), norm, out=torch.empty_like(x))
    torch.testing.assert_close(out, torch.tensor([[3.0, 8.0]], dtype=torch.float64) / 12.5**0.5)


@pytest.mark.parametrize("shape", [(7, 12), (5, 3, 8)])
def test_rms_norm_equals_autograd(shape: tuple[int, ...]) -> None:
    norm = NormWeights(random(shape[-1], seed=1), eps=1e-2)
    x, grad, start = random(*shape).requires_grad_(), random(*shape, seed=2), random(*shape, seed=3)
    slow = x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt() * norm.scale_D
    (slow_grad,) = torch.autograd.grad(slow, x, grad)
    x = x.detach()
    rstd = rms_scale(x, norm)
    torch.testing.assert_close(rms_norm(x, rstd, norm, out=torch.empty_like(x)), slow.detach(), **EXACT)
    into = rms_norm_backward(grad.clone(), x, rstd, norm, into=start.clone())
    torch.testing.assert_close(into, start + slow_grad, **EXACT)


def test_rotate_equals_definition_and_inverse_is_backward() -> None:
    x, grad = random(5, 3, 8).requires_grad_(), random(5, 3, 8, seed=1)
    angle = random(5, 1, 4, seed=2)
    cos, sin = angle.cos(), angle.sin()
    turned = torch.cat((-x[..., 4:], x[..., :4]), -1)
    slow = x * torch.cat((cos, cos), -1) + turned * torch.cat((sin, sin), -1)
    (slow_grad,) = torch.autograd.grad(slow, x, grad)
    fast = rotate(x.detach(), cos, sin, out=torch.empty(5, 3, 8, dtype=torch.float64))
    torch.testing.assert_close(fast, slow.detach(), **EXACT)
    torch.testing.assert_close(rotate(grad, cos, sin, out=torch.empty_like(grad), inverse=True), slow_grad, **EXACT)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_activation_equals_autograd(activation: str) -> None:
    x, grad = (random(6, 10) * 3).requires_grad_(), random(6, 10, seed=1)
    plain = torch.nn.functional
    slow = plain.silu(x) if activation == "silu" else plain.gelu(x, approximate="tanh")
    (slow_grad,) = torch.autograd.grad(slow, x, grad)
    fast = activate(x.detach(), activation, out=torch.empty_like(grad))  # type: ignore[arg-type]
    torch.testing.assert_close(fast, slow.detach(), **EXACT)
    fast_grad = activate_backward(grad, x.detach(), activation, out=torch.empty_like(grad))  # type: ignore[arg-type]
    torch.testing.assert_close(fast_grad, slow_grad, **EXACT)
