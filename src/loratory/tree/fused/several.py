"""Linear layers that several models share, each with adapters of its own: one product of all rows, then each model's.

A pass over the rows of several models behind each other reads the frozen weights once. On a CPU a product of few rows
is bound by reading them, so this is where training several small adapters at once gains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from loratory.tree.fused.linear import GroupGradient, LinearGroup
from loratory.tree.fused.weights import LayerWeights, LinearWeights

_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def linear_group(bounds: Sequence[int] | None, *linears: LinearWeights) -> LinearGroup:
    """The linears as one group.

    Args:
        bounds: Where each model's rows begin among those of a pass, and where the last one's end; None for one model.
        linears: Their weights.
    """
    return LinearGroup(*linears) if bounds is None else SeveralGroup(bounds, *linears)


def join_layers(layers: Sequence[LayerWeights]) -> LayerWeights:
    """One layer of several models with the same frozen weights."""
    first = layers[0]
    joined = {
        name: replace(getattr(first, name), lora=None, several=tuple(getattr(layer, name).lora for layer in layers))
        for name in _LINEARS
    }
    return replace(first, **joined)


class SeveralGroup(LinearGroup):
    """A group whose rows belong to several models.

    Args:
        bounds: See `linear_group`.
        linears: With `several` adapters, one for each model.

    Attributes:
        groups: The group of each model.
    """

    def __init__(self, bounds: Sequence[int], *linears: LinearWeights) -> None:
        super().__init__(*linears)
        self._bounds = tuple(bounds)
        self.groups = [
            LinearGroup(*(replace(linear, lora=linear.several[index], several=()) for linear in linears))
            for index in range(len(bounds) - 1)
        ]
        self.total_rank = max(group.total_rank for group in self.groups)

    def add_lora(self, x_TI: torch.Tensor, u_TR: torch.Tensor, outs: list[torch.Tensor], *, start: int = 0) -> None:
        """Each model's adapters on its own rows."""
        for group, rows in self._parts(len(x_TI), start):
            group.add_lora(x_TI[rows], u_TR[rows, : group.total_rank], [out[rows] for out in outs])

    def backward(
        self,
        grads: list[torch.Tensor],
        x_TI: torch.Tensor,
        u_TR: torch.Tensor,
        lora: GroupGradient,
        *,
        scale_T1: torch.Tensor | None = None,
        start: int = 0,
    ) -> torch.Tensor | None:
        """As `LinearGroup.backward`, each model from its own rows."""
        assert isinstance(lora, SeveralGradient)
        v_TR = torch.empty_like(u_TR)
        for group, rows in self._parts(len(x_TI), start):
            v = group.backward(
                [grad[rows] for grad in grads],
                x_TI[rows],
                u_TR[rows, : group.total_rank],
                lora.of(self.groups.index(group)),
                scale_T1=None if scale_T1 is None else scale_T1[rows],
            )
            if v is not None:
                v_TR[rows, : group.total_rank] = v
        return v_TR

    def add_lora_grad(self, v_TR: torch.Tensor | None, out: torch.Tensor, *, start: int = 0) -> None:
        """Each model's part on its own rows."""
        assert v_TR is not None
        for group, rows in self._parts(len(out), start):
            group.add_lora_grad(v_TR[rows, : group.total_rank], out[rows])

    def new_gradient(self) -> "SeveralGradient":
        """An empty accumulator."""
        return SeveralGradient(self)

    def _parts(self, num_rows: int, start: int) -> Iterator[tuple[LinearGroup, slice]]:
        """The models that have rows in this stretch, and where."""
        for index, group in enumerate(self.groups):
            first = max(0, self._bounds[index] - start)
            last = min(num_rows, self._bounds[index + 1] - start)
            if first < last:
                yield group, slice(first, last)


class SeveralGradient(GroupGradient):
    """Gradients of several models' adapters."""

    def __init__(self, group: SeveralGroup) -> None:
        self._linears = group.linears
        self._parts = [each.new_gradient() for each in group.groups]

    def of(self, index: int) -> GroupGradient:
        """The accumulator of one model."""
        return self._parts[index]

    def result(self, *, scale_I: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Gradients of A and B in the order of `LayerWeights.parameters`: linear by linear, model by model."""
        found = [iter(part.result(scale_I=scale_I)) for part in self._parts]
        out: list[torch.Tensor] = []
        for linear in self._linears:
            for lora, grads in zip(linear.several, found, strict=True):
                if lora is not None:
                    out += [next(grads), next(grads)]
        return out
