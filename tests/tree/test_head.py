import pytest
import torch

from loratory.tree.head import FrozenHead, RecomputedHead, score_logits

ROWS, WIDTH, VOCAB = 7, 16, 50


def case(dtype: torch.dtype = torch.float64, *, bias: bool) -> tuple[torch.Tensor, ...]:
    """Hidden states, weight, bias, rows (repeated, out of order, one unused), targets, cotangents."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=dtype)
    bias_V = torch.randn(VOCAB, generator=generator, dtype=dtype) if bias else None
    rows = torch.tensor([5, 0, 0, 3, 6, 1, 5, 5, 2])
    targets = torch.randint(VOCAB, (9,), generator=generator)
    return hidden, weight, bias_V, rows, targets, torch.randn(9, generator=generator, dtype=dtype)


def reference(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return score_logits(torch.nn.functional.linear(hidden, weight, bias), rows, targets)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("max_rows", [1, 2, 3, 100])
def test_frozen_head_equals_logits(max_rows: int, bias: bool) -> None:
    hidden, weight, bias_V, rows, targets, cotangent = case(bias=bias)
    want, want_correct = reference(hidden, weight, bias_V, rows, targets)
    (want_grad,) = torch.autograd.grad(want, hidden, cotangent)
    head = FrozenHead(weight, bias_V, max_bytes=max_rows * VOCAB * 8)
    assert head.max_rows == max_rows
    for _ in range(2):  # the second call reuses the buffer
        got, correct = head(hidden, rows, targets)
        (grad,) = torch.autograd.grad(got, hidden, cotangent)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(grad, want_grad, rtol=1e-11, atol=1e-12)
        assert torch.equal(correct, want_correct)


def test_frozen_head_is_exact_for_confident_predictions() -> None:
    hidden = torch.zeros(1, 2, dtype=torch.float32).requires_grad_()
    weight = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]])
    head = FrozenHead(weight)
    with torch.no_grad():
        hidden[0, 0] = 1.0
    logprob, correct = head(hidden, torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert logprob.tolist() == [0.0, -2000.0]
    assert correct.tolist() == [True, False]


def test_frozen_head_without_gradient_needs_none() -> None:
    hidden, weight, bias_V, rows, targets, _ = case(bias=True)
    with torch.no_grad():
        logprob, _ = FrozenHead(weight, bias_V)(hidden, rows, targets)
    assert not logprob.requires_grad
    torch.testing.assert_close(logprob, reference(hidden, weight, bias_V, rows, targets)[0].detach())


def test_frozen_head_in_bfloat16_scores_in_float32() -> None:
    hidden, weight, _, rows, targets, cotangent = case(torch.float32, bias=False)
    half = hidden.detach().bfloat16().requires_grad_()
    got, _ = FrozenHead(weight.bfloat16())(half, rows, targets)
    want, _ = reference(half.float(), weight.bfloat16().float(), None, rows, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.05)
    (grad,) = torch.autograd.grad(got, half, cotangent)
    (want_grad,) = torch.autograd.grad(want, half, cotangent)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, want_grad, rtol=0.05, atol=0.1)


def test_frozen_head_refuses_a_trained_weight() -> None:
    with pytest.raises(AssertionError):
        FrozenHead(torch.zeros(3, 2, requires_grad=True))


@pytest.mark.parametrize("max_rows", [2, 100])
def test_recomputed_head_trains_its_weights(max_rows: int) -> None:
    hidden, weight, bias_V, rows, targets, cotangent = case(bias=True)
    module = torch.nn.Linear(WIDTH, VOCAB).double()
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias_V)
    inputs = (hidden, module.weight, module.bias)
    want, want_correct = score_logits(module(hidden), rows, targets)
    want_grads = torch.autograd.grad(want, inputs, cotangent)
    got, correct = RecomputedHead(module, VOCAB, max_bytes=max_rows * VOCAB * 4)(hidden, rows, targets)
    torch.testing.assert_close(got, want)
    assert torch.equal(correct, want_correct)
    torch.testing.assert_close(torch.autograd.grad(got, inputs, cotangent), want_grads)
