"""One frozen base in memory for several runs of one process. Not a trainer: `engine.together` is.

Each run gets modules of its own around the same weight tensors, so that its adapter, its scorer and its checkpoints
are those of a run that has the base for itself, and no run can see, switch or train another's adapter.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from torch import nn
from transformers import PreTrainedModel

from loratory.config import RunConfig
from loratory.errors import AdapterError, ConfigError
from loratory.model import LoadedModel

# The others change the base's weights when they are attached.
_HARMLESS_INITS = ("default", "gaussian", "orthogonal")
_SAME_SECTIONS = ("model", "quantization")


class SharedBase:
    """Loads a base once and hands out shells of it."""

    def __init__(self) -> None:
        self._loaded: LoadedModel | None = None
        self._versions: dict[str, int] = {}

    def take(self, load: Callable[[], LoadedModel]) -> LoadedModel:
        """The base in modules of its own.

        Args:
            load: Loads it; called the first time only.
        """
        if self._loaded is None:
            self._loaded = load()
            self._loaded.model.requires_grad_(False)
            self._versions = {name: p._version for name, p in self._loaded.model.named_parameters()}
        return replace(self._loaded, model=shell_of(self._loaded.model))

    def refuse_changes(self) -> None:
        """Check that an adapter has left the shared weights alone.

        Raises:
            AdapterError: One of them would be trained or has been written to.
        """
        assert self._loaded is not None
        for name, parameter in self._loaded.model.named_parameters():
            if parameter.requires_grad or parameter._version != self._versions[name]:
                raise AdapterError(
                    f"'{name}' is a weight of the base that several runs share, and this adapter changes it. Train "
                    "this run alone."
                )


def shell_of(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules around the very same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    assert isinstance(model, nn.Module)
    return copy.deepcopy(model, shared)


def sharing_faults(configs: list[RunConfig]) -> list[str]:
    """Why these runs cannot share one base in one process; empty when they can."""
    faults = []
    first = configs[0]
    for config in configs:
        name, adapter = config.run.name, config.adapter
        faults += [
            f"{name}: {section} differs from that of {first.run.name}; runs share one base in one form"
            for section in _SAME_SECTIONS
            if getattr(config, section) != getattr(first, section)
        ]
        if config.quantization.load_in_4bit or config.quantization.load_in_8bit:
            faults.append(f"{name}: a base in 4 or 8 bits is not shared; train such runs one by one")
        if config.objective != first.objective or config.objective.name in ("ppo", "grpo", "rloo"):
            faults.append(f"{name}: objective must be the same for all, and none that samples answers")
        if config.train.num_threads != first.train.num_threads:
            faults.append(f"{name}: train.num_threads differs from that of {first.run.name}; it is of the process")
        if adapter.method != "lora":
            faults.append(f"{name}: adapter.method: {adapter.method}; only lora leaves the shared base alone for sure")
        if adapter.init not in _HARMLESS_INITS:
            faults.append(
                f"{name}: adapter.init: {adapter.init} changes the base; allowed {', '.join(_HARMLESS_INITS)}"
            )
        if adapter.bias != "none":
            faults.append(f"{name}: adapter.bias: {adapter.bias} trains biases of the base; allowed none")
        if adapter.create_new_adapter:
            faults.append(f"{name}: adapter.create_new_adapter merges into the base; merge it beforehand")
    return faults


def refuse_unshareable(configs: list[RunConfig]) -> None:
    """Raise what `sharing_faults` finds.

    Raises:
        ConfigError: With one fault per obstacle.
    """
    faults = sharing_faults(configs)
    if faults:
        raise ConfigError(faults)
