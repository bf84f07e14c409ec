"""What pruning sees of a decoder layer: seven linears, whose rows and columns belong to head groups and channels.

A head group is a key-value head with all its query heads; a channel is one hidden unit of the feed-forward part. Both
can be taken out without any other layer noticing, so that plain index selection on the linears is exact and a
dependency graph has nothing to find.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from loratory.errors import ModelError
from loratory.model.uneven import LayerShape, shapes_of

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, eq=False)
class PrunableLayer:
    """One decoder layer.

    Attributes:
        module: The layer in the model.
        shape: Its widths.
        head_dim: Width of a head.
        hidden_size: Width of the residual stream.
    """

    module: Any
    shape: LayerShape
    head_dim: int
    hidden_size: int

    def linear(self, name: str) -> nn.Linear:
        """The linear of a name in `PROJECTIONS`."""
        parent = self.module.self_attn if name in PROJECTIONS[:4] else self.module.mlp
        return cast(nn.Linear, getattr(parent, name))

    def replace(self, name: str, linear: nn.Linear) -> None:
        """Put another linear in the place of the one of that name."""
        setattr(self.module.self_attn if name in PROJECTIONS[:4] else self.module.mlp, name, linear)

    @property
    def num_parameters(self) -> int:
        """Numbers in the seven linears, biases included."""
        return sum(p.numel() for name in PROJECTIONS for p in self.linear(name).parameters())

    @property
    def group_parameters(self) -> int:
        """Numbers that a head group takes with it."""
        rows = self.head_dim * self.shape.groups, self.head_dim, self.head_dim
        own = sum(
            count * (self.hidden_size + (self.linear(name).bias is not None))
            for name, count in zip(PROJECTIONS[:3], rows, strict=True)
        )
        return own + rows[0] * self.hidden_size

    @property
    def channel_parameters(self) -> int:
        """Numbers that a channel takes with it."""
        biases = sum(self.linear(name).bias is not None for name in ("gate_proj", "up_proj"))
        return 3 * self.hidden_size + biases

    def group_sums(self, elements: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Sum a quantity over the numbers of each head group.

        Args:
            elements: Gives the quantity for each number of a weight or bias, in its shape.

        Returns:
            [key-value heads], float64.
        """
        groups = self.shape.key_value_heads
        rows = (self._by_row(name, elements) for name in PROJECTIONS[:3])
        columns = elements(self.linear("o_proj").weight).sum(0, dtype=torch.float64)
        return sum((each.view(groups, -1).sum(1) for each in (*rows, columns)), torch.zeros(groups).double())

    def channel_sums(self, elements: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """As `group_sums` for channels, [channels]."""
        columns = elements(self.linear("down_proj").weight).sum(0, dtype=torch.float64)
        return columns + self._by_row("gate_proj", elements) + self._by_row("up_proj", elements)

    def _by_row(self, name: str, elements: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        linear = self.linear(name)
        total = elements(linear.weight).sum(1, dtype=torch.float64)
        return total if linear.bias is None else total + elements(linear.bias).double()


def prunable_layers(model: PreTrainedModel) -> list[PrunableLayer]:
    """The decoder layers of a model, which may have been pruned before.

    Raises:
        ModelError: The family is not supported, or a linear is not a plain one (quantised, with an adapter).
        IntegrityError: The layers contradict each other.
    """
    shapes = shapes_of(model)
    modules = cast(Any, model.get_decoder()).layers
    layers = [
        PrunableLayer(module, shape, shapes.head_dim, shapes.hidden_size)
        for module, shape in zip(modules, shapes.layers, strict=True)
    ]
    for index, layer in enumerate(layers):
        for name in PROJECTIONS:
            if type(layer.linear(name)) is not nn.Linear:
                raise ModelError(
                    f"layer {index}: {name} is a {type(layer.linear(name)).__name__}; only plain linear layers can be "
                    "pruned. Load the model unquantised and merge its adapter first"
                )
    return layers
