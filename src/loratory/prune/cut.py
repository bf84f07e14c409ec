"""Taking head groups and channels out of a layer: index selection on its seven linears."""

from collections.abc import Sequence

import torch
from torch import nn

from loratory.prune.layers import PrunableLayer
from loratory.prune.selection import KeptParts


def cut_layer(layer: PrunableLayer, kept: KeptParts) -> None:
    """Replace the linears of a layer by narrower copies; the model then computes as if the rest were zero.

    Args:
        layer: The layer; its module is changed in place.
        kept: What stays.
    """
    width = layer.head_dim
    key_rows = _spread(kept.groups, width)
    query_rows = _spread(kept.groups, width * layer.shape.groups)
    channels = torch.tensor(kept.channels)
    for name, rows in (("q_proj", query_rows), ("k_proj", key_rows), ("v_proj", key_rows)):
        layer.replace(name, _with_rows(layer.linear(name), rows))
    layer.replace("o_proj", _with_columns(layer.linear("o_proj"), query_rows))
    for name in ("gate_proj", "up_proj"):
        layer.replace(name, _with_rows(layer.linear(name), channels))
    layer.replace("down_proj", _with_columns(layer.linear("down_proj"), channels))


def _spread(groups: Sequence[int], rows: int) -> torch.Tensor:
    """Row indices of groups that own `rows` rows each."""
    return (torch.tensor(groups)[:, None] * rows + torch.arange(rows)).flatten()


def _with_rows(linear: nn.Linear, rows: torch.Tensor) -> nn.Linear:
    rows = rows.to(linear.weight.device)
    bias = None if linear.bias is None else linear.bias.detach()[rows]
    return _linear(linear.weight.detach()[rows], bias, like=linear)


def _with_columns(linear: nn.Linear, columns: torch.Tensor) -> nn.Linear:
    weight = linear.weight.detach()[:, columns.to(linear.weight.device)]
    return _linear(weight, None if linear.bias is None else linear.bias.detach().clone(), like=linear)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, *, like: nn.Linear) -> nn.Linear:
    # On the meta device first: nothing is drawn at random, so that no generator moves.
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=like.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=like.bias.requires_grad)
    return made.train(like.training)
