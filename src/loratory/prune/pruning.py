"""`prune_model`: from a target to a narrower model. Structured, one-shot; what it costs is won back by training.

Prunable are the seven linears of the layers that may be touched. Embeddings, norms and the residual width stay.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError
from loratory.model.uneven import LayerShape, shapes_of
from loratory.prune.cut import cut_layer
from loratory.prune.importance import IMPORTANCES, ImportanceName, measure_importance
from loratory.prune.layers import prunable_layers
from loratory.prune.selection import KeptParts, Limits, Scope, select_kept

# Of 32 layers LLM-Pruner prunes 4 to 29: the first layers and the last two carry most for their size.
_SPARED_FIRST, _SPARED_LAST = 4 / 32, 2 / 32


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """How a model is pruned.

    Attributes:
        ratio: Share of the prunable parameters that goes; None when `parameters` is given.
        parameters: Parameters of the whole model afterwards, at least; None when `ratio` is given.
        importance: What decides which parts go.
        layers: First and last layer that may be pruned; None spares the first eighth and the last sixteenth.
        scope: Whether layers compete (global) or give up equal shares (uniform).
        min_share: Share of the head groups and of the channels that each layer keeps.
        channel_multiple: Feed-forward widths stay multiples of this.
        seed: Of random importance.
    """

    ratio: float | None = 0.2
    parameters: int | None = None
    importance: ImportanceName = "magnitude"
    layers: tuple[int, int] | None = None
    scope: Scope = "global"
    min_share: float = 0.125
    channel_multiple: int = 8
    seed: int = 42

    def __post_init__(self) -> None:
        faults = []
        if (self.ratio is None) == (self.parameters is None):
            faults.append("--ratio and --parameters: give one of them")
        if self.ratio is not None and not 0 < self.ratio < 1:
            faults.append(f"--ratio: got {self.ratio}; allowed is a share above 0 and below 1")
        if self.importance not in IMPORTANCES:
            faults.append(f"--importance: got {self.importance!r}; allowed are {', '.join(IMPORTANCES)}")
        if not 0 <= self.min_share < 1:
            faults.append(f"--min-share: got {self.min_share}; allowed is 0 or more and below 1")
        if self.channel_multiple < 1:
            faults.append(f"--multiple-of: got {self.channel_multiple}; allowed is 1 or more")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What pruning did.

    Attributes:
        settings: As asked for.
        layers: First and last layer that could be pruned.
        parameters_before: Of the whole model; shared embeddings count once.
        parameters_after: The same afterwards.
        prunable: Parameters that could have gone, in the seven linears of those layers.
        shapes_before: Widths of each layer.
        shapes_after: Widths of each layer afterwards.
        kept: What stayed of each layer, as indices into the model before.
    """

    settings: PruneSettings
    layers: tuple[int, int]
    parameters_before: int
    parameters_after: int
    prunable: int
    shapes_before: tuple[LayerShape, ...]
    shapes_after: tuple[LayerShape, ...]
    kept: tuple[KeptParts, ...]

    @property
    def removed(self) -> int:
        """Parameters taken out."""
        return self.parameters_before - self.parameters_after

    def describe(self) -> str:
        """One line for people."""
        return (
            f"removed {self.removed:,} of {self.prunable:,} prunable parameters ({self.removed / self.prunable:.2%}) "
            f"in layers {self.layers[0]} to {self.layers[1]}; the model has {self.parameters_after:,} of "
            f"{self.parameters_before:,} ({self.parameters_after / self.parameters_before:.2%})"
        )

    def to_dict(self) -> dict[str, object]:
        """All of it as plain values, for `pruning.json`."""
        return asdict(self)


def prune_model(
    model: PreTrainedModel, settings: PruneSettings, *, calibration: Sequence[TokenSequence] = ()
) -> PruneReport:
    """Prune a model in place.

    Args:
        model: A model of the Llama family, unquantised and without adapter; uneven layers are fine.
        settings: How much and by what.
        calibration: Text for taylor importance.

    Returns:
        What was done. The target is met from above, within one head group or bundle of channels.

    Raises:
        ConfigError: A target out of reach, or layers that the model does not have.
        ModelError: The family is not supported, or the model is quantised or carries an adapter.
        NumericsError: An importance is not finite.
    """
    layers = prunable_layers(model)
    limits = Limits(*_touchable(settings, len(layers)), settings.min_share, settings.channel_multiple)
    before = count_parameters(model)
    prunable = sum(layer.num_parameters for layer in layers[limits.first : limits.last + 1])
    shapes = shapes_of(model).layers
    importance = measure_importance(model, layers, settings.importance, calibration=calibration, seed=settings.seed)
    kept = select_kept(
        layers,
        importance,
        num_removed=_target(settings, before, prunable),
        limits=limits,
        scope=settings.scope,
    )
    for layer, parts in zip(layers, kept, strict=True):
        if (len(parts.groups), len(parts.channels)) != (layer.shape.key_value_heads, layer.shape.ffn_width):
            cut_layer(layer, parts)
    return PruneReport(
        settings=settings,
        layers=(limits.first, limits.last),
        parameters_before=before,
        parameters_after=count_parameters(model),
        prunable=prunable,
        shapes_before=shapes,
        shapes_after=shapes_of(model).layers,
        kept=tuple(kept),
    )


def count_parameters(model: PreTrainedModel) -> int:
    """Numbers in a model; what is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def default_layers(num_layers: int) -> tuple[int, int]:
    """First and last layer that are pruned unless the user says otherwise: 4 and 29 of 32."""
    first = round(num_layers * _SPARED_FIRST)
    last = num_layers - 1 - round(num_layers * _SPARED_LAST)
    return first, max(first, last)


def _touchable(settings: PruneSettings, num_layers: int) -> tuple[int, int]:
    if settings.layers is None:
        return default_layers(num_layers)
    first, last = settings.layers
    if not 0 <= first <= last < num_layers:
        raise ConfigError(f"--layers: got {first}-{last}; the model has layers 0 to {num_layers - 1}")
    return first, last


def _target(settings: PruneSettings, before: int, prunable: int) -> int:
    """Numbers to take out."""
    if settings.ratio is not None:
        return round(settings.ratio * prunable)
    assert settings.parameters is not None
    if not before - prunable < settings.parameters < before:
        raise ConfigError(
            f"--parameters: got {settings.parameters:,}; the model has {before:,}, of which {prunable:,} can be "
            f"pruned, so that allowed are {before - prunable + 1:,} to {before - 1:,}"
        )
    return before - settings.parameters
