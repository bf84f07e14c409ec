"""Which head groups and channels go: the least important first, until the target is met or only minima are left."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from loratory.errors import ConfigError
from loratory.prune.importance import LayerImportance
from loratory.prune.layers import PrunableLayer

Kind = Literal["groups", "channels"]
Scope = Literal["global", "uniform"]


@dataclass(frozen=True, slots=True)
class KeptParts:
    """What stays of one layer, as rising indices.

    Attributes:
        groups: Head groups (key-value heads).
        channels: Feed-forward channels.
    """

    groups: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What pruning may touch.

    Attributes:
        first: First layer that may be pruned.
        last: Last one.
        min_share: Share of the head groups and of the channels that a layer keeps in any case; at least one of each.
        channel_multiple: Channels go in bundles, so that a layer's width is a multiple of this (1: any width).
    """

    first: int
    last: int
    min_share: float
    channel_multiple: int


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Parts of one layer that go together."""

    layer: int
    kind: Kind
    members: tuple[int, ...]
    num_parameters: int
    rank: float


def select_kept(
    layers: Sequence[PrunableLayer],
    importance: Sequence[LayerImportance],
    *,
    num_removed: int,
    limits: Limits,
    scope: Scope,
) -> list[KeptParts]:
    """Choose what stays.

    Global: all layers compete; a score counts as a multiple of the mean of its own layer and kind, since weights and
    gradients of different layers have different scales, and of groups and channels different sizes. Uniform: each
    layer gives up the same share of its groups and of its channels, up to one bundle.

    Args:
        layers: The model's layers.
        importance: Their scores.
        num_removed: Numbers to take out; met from below within the smallest bundle that could still go.
        limits: What may be touched.
        scope: Who competes.

    Raises:
        ConfigError: The minima do not allow so much.
    """
    bundles = [
        bundle
        for index in range(limits.first, limits.last + 1)
        for bundle in _bundles(index, layers[index], importance[index], limits, scope)
    ]
    reachable = sum(bundle.num_parameters for bundle in bundles)
    if num_removed > reachable:
        raise ConfigError(
            f"{num_removed:,} parameters are to go, but layers {limits.first} to {limits.last} can give up "
            f"{reachable:,} when each keeps {limits.min_share:.0%} of its heads and channels. Ask for less, allow "
            "more layers (--layers) or keep less (--min-share)"
        )
    gone: dict[tuple[int, Kind], set[int]] = {}
    left = num_removed
    for bundle in sorted(bundles, key=lambda each: (each.rank, each.layer, each.kind)):
        if bundle.num_parameters <= left:
            left -= bundle.num_parameters
            gone.setdefault((bundle.layer, bundle.kind), set()).update(bundle.members)

    def stay(index: int, kind: Kind, count: int) -> tuple[int, ...]:
        return tuple(part for part in range(count) if part not in gone.get((index, kind), ()))

    return [
        KeptParts(stay(index, "groups", layer.shape.key_value_heads), stay(index, "channels", layer.shape.ffn_width))
        for index, layer in enumerate(layers)
    ]


def _bundles(
    index: int, layer: PrunableLayer, scores: LayerImportance, limits: Limits, scope: Scope
) -> Iterator[_Bundle]:
    """What a layer can give up, the least important first."""
    parts: tuple[tuple[Kind, torch.Tensor, int, int], ...] = (
        ("groups", scores.groups_G, 1, layer.group_parameters),
        ("channels", scores.channels_F, limits.channel_multiple, layer.channel_parameters),
    )
    for kind, score, multiple, size in parts:
        count = len(score)
        least = max(1, math.ceil(limits.min_share * count))
        ascending = torch.argsort(score, stable=True).tolist()
        mean = max(float(score.mean()), torch.finfo(score.dtype).tiny)
        begin = 0
        # The first bundle takes what makes the width a multiple; from then on it stays one.
        end = count % multiple or multiple
        while count - end >= least:
            members = tuple(ascending[begin:end])
            own = float(score[list(members)].mean()) / mean if scope == "global" else (begin + end) / 2 / count
            yield _Bundle(index, kind, members, size * len(members), own)
            begin, end = end, end + multiple
