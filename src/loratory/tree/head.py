"""The language-model head at labels only: log-probabilities without a [T, V] tensor of logits.

A head that is not trained needs no logits in the backward pass: the gradient of log p(target) with respect to the
hidden state is `W[target] - sum_v p_v W[v]`, and the second term is made in the forward pass while the logits of a
chunk are at hand (the idea of Liger's fused linear cross-entropy, arXiv 2410.10989). It costs the same two products
as logits and their gradient, for predictors instead of positions, in a buffer of bounded size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

DEFAULT_MAX_BYTES = 64 * 2**20


class FrozenHead:
    """Log-probabilities under a linear head whose weights are not trained.

    Args:
        weight_VD: Head weights; tied ones are fine as long as nothing trains them.
        bias_V: Head bias or None.
        max_bytes: Bound on the memory of logits; one buffer of at most this size is kept and reused.
    """

    def __init__(
        self, weight_VD: torch.Tensor, bias_V: torch.Tensor | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        assert not weight_VD.requires_grad
        assert bias_V is None or not bias_V.requires_grad
        self.weight_VD = weight_VD.detach()
        self.bias_V = None if bias_V is None else bias_V.detach()
        self.max_rows = max(
            1, max_bytes // (weight_VD.shape[0] * torch.promote_types(weight_VD.dtype, torch.float32).itemsize)
        )
        self._buffer: torch.Tensor | None = None

    def __call__(
        self, hidden_PD: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score labels.

        Args:
            hidden_PD: Hidden states behind the final norm, one row for each predictor.
            row_N: int64, the row that predicts each label; may repeat.
            targets_N: int64, the token predicted.

        Returns:
            Log-probabilities in nats [N], at least fp32, differentiable in `hidden_PD`; and whether the target is the
            likeliest token, bool [N].
        """
        logprob_N, correct_N = _FrozenHeadFunction.apply(hidden_PD, row_N, targets_N, self)  # type: ignore[no-untyped-call]
        return logprob_N, correct_N

    def logits(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Logits of at most `max_rows` rows, in the reused buffer."""
        if self.weight_VD.dtype.itemsize < 4:
            return torch.nn.functional.linear(hidden_PD, self.weight_VD, self.bias_V).float()
        if self._buffer is None or self._buffer.shape[0] < len(hidden_PD):
            self._buffer = self.weight_VD.new_empty(len(hidden_PD), self.weight_VD.shape[0])
        logits_PV = self._buffer[: len(hidden_PD)]
        torch.mm(hidden_PD, self.weight_VD.t(), out=logits_PV)
        return logits_PV if self.bias_V is None else logits_PV.add_(self.bias_V)


class _FrozenHeadFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor, head: FrozenHead
    ) -> tuple[torch.Tensor, torch.Tensor]:
        precision = torch.promote_types(head.weight_VD.dtype, torch.float32)
        logprob_N = hidden_PD.new_empty(len(row_N), dtype=precision)
        correct_N = torch.empty_like(row_N, dtype=torch.bool)
        mean_PD = torch.empty_like(hidden_PD, dtype=precision) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden_PD), head.max_rows):
            stop = min(start + head.max_rows, len(hidden_PD))
            inside = torch.nonzero((row_N >= start) & (row_N < stop))[:, 0]
            logits_CV = head.logits(hidden_PD[start:stop])
            own_n = logits_CV[row_N[inside] - start, targets_N[inside]]
            top_C = logits_CV.amax(dim=1)
            correct_N[inside] = own_n == top_C[row_N[inside] - start]
            sum_C = logits_CV.sub_(top_C[:, None]).exp_().sum(dim=1)
            logprob_N[inside] = own_n - (top_C + sum_C.log())[row_N[inside] - start]
            if mean_PD is not None:
                mean_CD = torch.mm(logits_CV.to(head.weight_VD.dtype), head.weight_VD)
                mean_PD[start:stop] = mean_CD / sum_C[:, None]
        if mean_PD is not None:
            ctx.save_for_backward(mean_PD, row_N, targets_N)
            ctx.weight_VD = head.weight_VD
            ctx.dtype = hidden_PD.dtype
        ctx.mark_non_differentiable(correct_N)
        return logprob_N, correct_N

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, _: None) -> tuple[torch.Tensor, None, None, None]:
        mean_PD, row_N, targets_N = ctx.saved_tensors
        own_ND = torch.nn.functional.embedding(targets_N, ctx.weight_VD).to(mean_PD.dtype)
        grad_P = mean_PD.new_zeros(len(mean_PD)).index_add_(0, row_N, grad_N)
        grad_PD = (mean_PD * -grad_P[:, None]).index_add_(0, row_N, own_ND.mul_(grad_N[:, None]))
        return grad_PD.to(ctx.dtype), None, None, None


class RecomputedHead:
    """Log-probabilities under a head that is trained or wrapped: chunks of logits, computed again in the backward pass.

    Args:
        module: Hidden states to logits: the model's output embedding.
        num_tokens: Size of the vocabulary.
        max_bytes: Bound on the memory of one chunk of logits.
    """

    def __init__(
        self, module: Callable[[torch.Tensor], torch.Tensor], num_tokens: int, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self._module = module
        self._max_rows = max(1, max_bytes // (num_tokens * 4))

    def __call__(
        self, hidden_PD: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score labels; arguments and results are those of `FrozenHead`, differentiable in the head's weights too."""
        places: list[torch.Tensor] = []
        scores: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(hidden_PD), self._max_rows):
            stop = min(start + self._max_rows, len(hidden_PD))
            inside = torch.nonzero((row_N >= start) & (row_N < stop))[:, 0]
            places.append(inside)
            scores.append(
                checkpoint(
                    self._score, hidden_PD[start:stop], row_N[inside] - start, targets_N[inside], use_reentrant=False
                )
            )
        order = torch.cat(places).argsort()
        return torch.cat([s[0] for s in scores])[order], torch.cat([s[1] for s in scores])[order]

    def with_entropy(
        self, hidden_PD: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each label and entropy of the distribution that predicts it, nats [N] each."""
        logprobs, entropies = [], []
        order: list[torch.Tensor] = []
        for start in range(0, len(hidden_PD), self._max_rows):
            stop = min(start + self._max_rows, len(hidden_PD))
            inside = torch.nonzero((row_N >= start) & (row_N < stop))[:, 0]
            order.append(inside)
            logprob_n, entropy_C = checkpoint(
                self._score_with_entropy,
                hidden_PD[start:stop],
                row_N[inside] - start,
                targets_N[inside],
                use_reentrant=False,
            )
            logprobs.append(logprob_n)
            entropies.append(entropy_C)
        return torch.cat(logprobs)[torch.cat(order).argsort()], torch.cat(entropies)[row_N]

    def _score_with_entropy(
        self, hidden_CD: torch.Tensor, row_n: torch.Tensor, targets_n: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return logprobs_and_entropies(self._module(hidden_CD), row_n, targets_n)

    def _score(
        self, hidden_CD: torch.Tensor, row_n: torch.Tensor, targets_n: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return score_logits(self._module(hidden_CD), row_n, targets_n)


def score_logits(
    logits_PV: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label and whether its target is the likeliest token, from logits at hand."""
    logits_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
    logprob_PV = torch.log_softmax(logits_PV, dim=-1)
    logprob_N = logprob_PV[row_N, targets_N]
    return logprob_N, logits_PV.amax(dim=-1)[row_N] == logits_PV[row_N, targets_N]


def logprobs_and_entropies(
    logits_PV: torch.Tensor, row_N: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label [N] and entropy of each row's distribution [P], in nats, from logits at hand."""
    logprob_PV = torch.log_softmax(logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32)), dim=-1)
    return logprob_PV[row_N, targets_N], torch.special.entr(logprob_PV.exp()).sum(dim=-1)


def score_outputs(
    module: torch.nn.Module,
    num_tokens: int,
    hidden_PD: torch.Tensor,
    row_N: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    needs_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability and, if asked for, entropy of each label; logits are computed again in the backward pass."""
    head = RecomputedHead(module, num_tokens)
    if len(targets_N) == 0:
        nothing = hidden_PD.new_zeros(0, dtype=torch.promote_types(hidden_PD.dtype, torch.float32))
        return nothing, nothing if needs_entropy else None
    if needs_entropy:
        return head.with_entropy(hidden_PD, row_N, targets_N)
    return head(hidden_PD, row_N, targets_N)[0], None
