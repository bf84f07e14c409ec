"""Linear layers that read the same input, frozen weight and LoRA update in one go.

The A matrices of a group stand below each other, times their scaling, so that all thin products of the input are one.
The thin products are laid out the way CPU GEMM likes: the rank is the short side of the output's rows, never of its
columns (three times faster for B's gradient).
"""

import torch

from loratory.tree.fused.weights import LinearWeights


class LinearGroup:
    """Linears on one input, e.g. q, k and v.

    Args:
        linears: Their weights.

    Attributes:
        linears: The same.
        total_rank: Sum of the LoRA ranks; 0 without LoRA.
    """

    def __init__(self, *linears: LinearWeights) -> None:
        self.linears = linears
        self._ranks: list[slice | None] = []
        stack: list[torch.Tensor] = []
        total = 0
        for linear in linears:
            if linear.lora is None:
                self._ranks.append(None)
                continue
            rank = linear.lora.a_RI.shape[0]
            self._ranks.append(slice(total, total + rank))
            stack.append(linear.lora.a_RI.detach() * linear.lora.scaling)
            total += rank
        self.total_rank = total
        self._a_RI = torch.cat(stack) if stack else None

    def forward(self, x_TI: torch.Tensor, u_TR: torch.Tensor, outs: list[torch.Tensor], *, start: int = 0) -> None:
        """Fill `outs` with each linear's output and `u_TR` with the scaled thin products, kept for the backward.

        Here and below `start` is the place of the first row among all rows of the pass.
        """
        for linear, out in zip(self.linears, outs, strict=True):
            if linear.bias_O is None:
                torch.mm(x_TI, linear.weight_OI.t(), out=out)
            else:
                torch.addmm(linear.bias_O, x_TI, linear.weight_OI.t(), out=out)
        self.add_lora(x_TI, u_TR, outs, start=start)

    def add_forward(
        self, x_TI: torch.Tensor, u_TR: torch.Tensor, residual_TO: torch.Tensor, out: torch.Tensor, *, start: int = 0
    ) -> None:
        """`out = residual + linear(x)` of a group of one."""
        (linear,) = self.linears
        torch.addmm(residual_TO, x_TI, linear.weight_OI.t(), out=out)
        if linear.bias_O is not None:
            out.add_(linear.bias_O)
        self.add_lora(x_TI, u_TR, [out], start=start)

    def add_lora(self, x_TI: torch.Tensor, u_TR: torch.Tensor, outs: list[torch.Tensor], *, start: int = 0) -> None:
        """The adapters' part of `forward`."""
        if self._a_RI is None:
            return
        torch.mm(x_TI, self._a_RI.t(), out=u_TR)
        for linear, out, ranks in zip(self.linears, outs, self._ranks, strict=True):
            if linear.lora is not None:
                out.addmm_(u_TR[:, ranks], linear.lora.b_OR.detach().t())

    def backward(
        self,
        grads: list[torch.Tensor],
        x_TI: torch.Tensor,
        u_TR: torch.Tensor,
        lora: "GroupGradient",
        *,
        scale_T1: torch.Tensor | None = None,
        start: int = 0,
    ) -> torch.Tensor | None:
        """LoRA gradients into `lora`; see `input_grad` for that of the input.

        Behind an RMSNorm the input is `x * rstd * scale`. Its rows need not be made again: give the norm's own input
        as `x_TI`, rstd as `scale_T1`, and the norm's scale to `GroupGradient.result`.

        Returns:
            The thin products v_TR for `input_grad`; None without LoRA.
        """
        if self._a_RI is None:
            return None
        v_TR = torch.empty_like(u_TR)
        for linear, grad, ranks in zip(self.linears, grads, self._ranks, strict=True):
            if linear.lora is not None:
                torch.mm(grad, linear.lora.b_OR.detach(), out=v_TR[:, ranks])
                lora.add_b(ranks, u_TR, grad)
        lora.add_a(v_TR if scale_T1 is None else v_TR * scale_T1, x_TI)
        return v_TR

    def input_grad(
        self, grads: list[torch.Tensor], v_TR: torch.Tensor | None, out: torch.Tensor, *, start: int = 0
    ) -> torch.Tensor:
        """Gradient of the input from those of the outputs and the thin products that `backward` returned."""
        first, *others = zip(self.linears, grads, strict=True)
        torch.mm(first[1], first[0].weight_OI, out=out)
        for linear, grad in others:
            out.addmm_(grad, linear.weight_OI)
        self.add_lora_grad(v_TR, out, start=start)
        return out

    def add_lora_grad(self, v_TR: torch.Tensor | None, out: torch.Tensor, *, start: int = 0) -> None:
        """The adapters' part of `input_grad`."""
        if v_TR is not None and self._a_RI is not None:
            out.addmm_(v_TR, self._a_RI)

    def new_gradient(self) -> "GroupGradient":
        """An empty accumulator."""
        return GroupGradient(self, self._ranks)


class GroupGradient:
    """Gradients of a group's LoRA matrices, summed over chunks of tokens."""

    def __init__(self, group: LinearGroup, ranks: list[slice | None]) -> None:
        self._group = group
        self._ranks = ranks
        self._a_RI: torch.Tensor | None = None
        self._b_RO: dict[int, torch.Tensor] = {}

    def add_a(self, v_TR: torch.Tensor, x_TI: torch.Tensor) -> None:
        """Add `v^T x`, all linears at once."""
        if self._a_RI is None:
            self._a_RI = torch.mm(v_TR.t(), x_TI)
        else:
            self._a_RI.addmm_(v_TR.t(), x_TI)

    def add_b(self, ranks: slice | None, u_TR: torch.Tensor, grad_TO: torch.Tensor) -> None:
        """Add `u^T grad`, the transposed gradient of one B."""
        assert ranks is not None
        u_Tr = u_TR[:, ranks]
        if ranks.start not in self._b_RO:
            self._b_RO[ranks.start] = torch.mm(u_Tr.t(), grad_TO)
        else:
            self._b_RO[ranks.start].addmm_(u_Tr.t(), grad_TO)

    def result(self, *, scale_I: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Gradients of A and B of each adapted linear, in order; `scale_I` scales the input columns of A's."""
        out: list[torch.Tensor] = []
        for linear, ranks in zip(self._group.linears, self._ranks, strict=True):
            if linear.lora is None or ranks is None:
                continue
            if self._a_RI is None:  # no token came by
                out += [torch.zeros_like(linear.lora.a_RI), torch.zeros_like(linear.lora.b_OR)]
                continue
            grad_a = self._a_RI[ranks] * linear.lora.scaling
            out.append(grad_a if scale_I is None else grad_a.mul_(scale_I))
            out.append(self._b_RO[ranks.start].t().contiguous())
        return out
