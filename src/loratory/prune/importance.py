"""How much each head group and each channel matters: by the size of its weights, by what the loss says, or by lot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError, NumericsError
from loratory.prune.layers import PROJECTIONS, PrunableLayer
from loratory.tree.build import build_tree
from loratory.tree.scorers import make_scorer

ImportanceName = Literal["magnitude", "taylor", "random"]
IMPORTANCES: tuple[ImportanceName, ...] = ("magnitude", "taylor", "random")


@dataclass(frozen=True, slots=True, eq=False)
class LayerImportance:
    """Scores of one layer; the higher, the later it goes.

    Attributes:
        groups_G: Of head groups, [key-value heads], float64.
        channels_F: Of feed-forward channels, [channels], float64.
    """

    groups_G: torch.Tensor
    channels_F: torch.Tensor


def measure_importance(
    model: PreTrainedModel,
    layers: Sequence[PrunableLayer],
    name: ImportanceName,
    *,
    calibration: Sequence[TokenSequence] = (),
    seed: int = 0,
) -> list[LayerImportance]:
    """Score the head groups and channels of each layer.

    magnitude: sum of squared weights. taylor: sum of |weight * gradient| over the calibration text, the first-order
    estimate of what the loss loses with each number (LLM-Pruner, Ma et al. 2023, eq. 5, element-wise). random: uniform.

    Args:
        model: The model, in eval mode.
        layers: Its layers.
        name: Which measure.
        calibration: Text for taylor.
        seed: Of random.

    Raises:
        ConfigError: taylor without a calibration text.
        NumericsError: A score is not finite.
    """
    if name == "random":
        found = _random(layers, seed)
    elif name == "magnitude":
        found = [LayerImportance(layer.group_sums(_squares), layer.channel_sums(_squares)) for layer in layers]
    else:
        found = _taylor(model, layers, calibration)
    for index, scores in enumerate(found):
        if not (scores.groups_G.isfinite().all() and scores.channels_F.isfinite().all()):
            raise NumericsError(f"layer {index}: its importance is not finite; the weights or gradients hold NaN")
    return found


def _squares(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().square()


def _random(layers: Sequence[PrunableLayer], seed: int) -> list[LayerImportance]:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> torch.Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    return [LayerImportance(draw(layer.shape.key_value_heads), draw(layer.shape.ffn_width)) for layer in layers]


def _taylor(
    model: PreTrainedModel, layers: Sequence[PrunableLayer], calibration: Sequence[TokenSequence]
) -> list[LayerImportance]:
    """One backward pass for each sequence: absolute values are taken per sequence, so that none cancels another."""
    if not calibration:
        raise ConfigError("--importance taylor needs a text to measure on; give --calibration FILE")
    totals = [
        LayerImportance(
            torch.zeros(layer.shape.key_value_heads, dtype=torch.float64),
            torch.zeros(layer.shape.ffn_width, dtype=torch.float64),
        )
        for layer in layers
    ]
    weights = [p for layer in layers for name in PROJECTIONS for p in layer.linear(name).parameters()]
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in weights:
        parameter.requires_grad_(True)
    try:
        scorer = make_scorer(model)
        for sequence in calibration:
            with torch.enable_grad():
                loss = scorer.nll(build_tree([sequence])).sum_nats / sequence.weight_sum
            torch.autograd.backward(loss)
            for layer, total in zip(layers, totals, strict=True):
                total.groups_G.add_(layer.group_sums(_weight_times_gradient).cpu())
                total.channels_F.add_(layer.channel_sums(_weight_times_gradient).cpu())
            for parameter in weights:
                parameter.grad = None
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
            parameter.grad = None
    return totals


def _weight_times_gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return (parameter.detach() * parameter.grad).abs()
