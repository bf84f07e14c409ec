"""Norm, rotary embedding and gated activation with few passes over memory, forward and backward by hand.

Plain functions on tensors without autograd; `out` may be a strided view. T rows of width D.
"""

import torch

from loratory.tree.fused.weights import Activation, NormWeights


def rms_scale(x_TD: torch.Tensor, norm: NormWeights) -> torch.Tensor:
    """1 / rms of each row, [T, 1]."""
    rms: torch.Tensor = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
    return rms.square_().div_(x_TD.shape[-1]).add_(norm.eps).rsqrt_()


def rms_norm(x_TD: torch.Tensor, rstd_T1: torch.Tensor, norm: NormWeights, *, out: torch.Tensor) -> torch.Tensor:
    """`x * rstd * scale`."""
    return torch.mul(x_TD, rstd_T1, out=out).mul_(norm.scale_D)


def rms_norm_backward(
    grad_TD: torch.Tensor, x_TD: torch.Tensor, rstd_T1: torch.Tensor, norm: NormWeights, *, into: torch.Tensor
) -> torch.Tensor:
    """Add the gradient of x to `into`; `grad_TD` is overwritten.

    With g = grad * scale: dx = rstd * (g - x * rstd^2 * mean(g * x)).
    """
    grad_TD.mul_(norm.scale_D)
    dot_T1 = torch.mul(grad_TD, x_TD).sum(-1, keepdim=True)  # vecdot is five times slower on CPU
    into.addcmul_(grad_TD, rstd_T1)
    return into.addcmul_(x_TD, dot_T1.mul_(rstd_T1.pow(3)), value=-1.0 / x_TD.shape[-1])


def rotate(
    x_THK: torch.Tensor, cos_T1J: torch.Tensor, sin_T1J: torch.Tensor, *, out: torch.Tensor, inverse: bool = False
) -> torch.Tensor:
    """Rotary embedding in the half-split form, J = K / 2; `inverse` turns back, which is also the backward."""
    sign = -1.0 if inverse else 1.0
    half = x_THK.shape[-1] // 2
    first, second = x_THK[..., :half], x_THK[..., half:]
    torch.mul(first, cos_T1J, out=out[..., :half]).addcmul_(second, sin_T1J, value=-sign)
    torch.mul(second, cos_T1J, out=out[..., half:]).addcmul_(first, sin_T1J, value=sign)
    return out


def activate(x: torch.Tensor, activation: Activation, *, out: torch.Tensor) -> torch.Tensor:
    """SiLU or the tanh form of GELU."""
    if activation == "silu":
        torch.ops.aten.silu.out(x, out=out)
    else:
        torch.ops.aten.gelu.out(x, approximate="tanh", out=out)
    return out


def activate_backward(
    grad: torch.Tensor, x: torch.Tensor, activation: Activation, *, out: torch.Tensor
) -> torch.Tensor:
    """Gradient of x."""
    if activation == "silu":
        torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=out)
    else:
        torch.ops.aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out)
    return out
