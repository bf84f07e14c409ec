"""Groups of linears with LoRA against the plain formula and its autograd."""

import pytest
import torch

from loratory.tree.fused.linear import LinearGroup
from loratory.tree.fused.weights import LinearWeights, LoraWeights


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_linear(outputs: int, rank: int, *, bias: bool, seed: int) -> LinearWeights:
    lora = None
    if rank:
        a, b = random(rank, 6, seed=seed).requires_grad_(), random(outputs, rank, seed=seed + 1).requires_grad_()
        lora = LoraWeights(a, b, 0.5 * seed)
    return LinearWeights(random(outputs, 6, seed=seed + 2), random(outputs, seed=seed + 3) if bias else None, lora)


def plain(x: torch.Tensor, linear: LinearWeights) -> torch.Tensor:
    out = torch.nn.functional.linear(x, linear.weight_OI, linear.bias_O)
    if linear.lora is None:
        return out
    return out + linear.lora.scaling * (x @ linear.lora.a_RI.t() @ linear.lora.b_OR.t())


@pytest.mark.parametrize("ranks", [(3, 2, 5), (0, 4, 0), (0, 0, 0)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_group_equals_autograd(ranks: tuple[int, ...], bias: bool, num_chunks: int) -> None:
    widths = (4, 7, 2)
    linears = [
        make_linear(o, r, bias=bias, seed=10 * i + 1) for i, (o, r) in enumerate(zip(widths, ranks, strict=True))
    ]
    x = random(9, 6, seed=99).requires_grad_()
    grads = [random(9, width, seed=50 + width) for width in widths]
    slow = [plain(x, linear) for linear in linears]
    parameters = [t for linear in linears if linear.lora for t in (linear.lora.a_RI, linear.lora.b_OR)]
    slow_x, *slow_lora = torch.autograd.grad(slow, [x, *parameters], grads)

    group = LinearGroup(*linears)
    u = x.new_empty(9, group.total_rank)
    outs = [torch.empty_like(grad) for grad in grads]
    group.forward(x.detach(), u, outs)
    for out, expected in zip(outs, slow, strict=True):
        torch.testing.assert_close(out, expected.detach())
    lora = group.new_gradient()
    parts = []
    for rows in torch.arange(9).chunk(num_chunks):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        pieces = [grad[part] for grad in grads]
        v = group.backward(pieces, x.detach()[part], u[part], lora)
        parts.append(group.input_grad(pieces, v, torch.empty(len(rows), 6, dtype=torch.float64)))
    torch.testing.assert_close(torch.cat(parts), slow_x)
    assert len(lora.result()) == len(slow_lora)
    for got, expected in zip(lora.result(), slow_lora, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("bias", [False, True])
def test_add_forward(bias: bool) -> None:
    linear = make_linear(4, 3, bias=bias, seed=1)
    x, residual = random(5, 6, seed=2), random(5, 4, seed=3)
    group = LinearGroup(linear)
    out = torch.empty_like(residual)
    group.add_forward(x, x.new_empty(5, group.total_rank), residual, out)
    torch.testing.assert_close(out, (residual + plain(x, linear)).detach())


def test_scales_of_a_norm_in_front() -> None:
    linears = [make_linear(4, 3, bias=False, seed=1), make_linear(2, 2, bias=False, seed=5)]
    x, rows, columns = random(5, 6, seed=2), random(5, 1, seed=3), random(6, seed=4)
    grads = [random(5, 4, seed=6), random(5, 2, seed=7)]
    group = LinearGroup(*linears)
    u = x.new_empty(5, group.total_rank)
    group.forward(x * rows * columns, u, [torch.empty_like(grad) for grad in grads])
    plain_lora, scaled_lora = group.new_gradient(), group.new_gradient()
    group.backward(grads, x * rows * columns, u, plain_lora)
    group.backward(grads, x, u, scaled_lora, scale_T1=rows)
    for got, expected in zip(scaled_lora.result(scale_I=columns), plain_lora.result(), strict=True):
        torch.testing.assert_close(got, expected)
