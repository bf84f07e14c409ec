"""Decoding at the base model's speed: the adapter added into the weights in memory, and taken out bit-exactly.

PEFT's own `unmerge` subtracts what it added and leaves rounding errors behind. Here the untouched weights are kept
and put back, so switching the adapter on and off any number of times changes nothing.
"""

import warnings

import torch
from peft import PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from loratory.errors import AdapterError


def fusion_obstacle(model: PeftModel) -> str | None:
    """Why the adapter cannot be fused without changing results, or None when it can."""
    if model.active_peft_config.peft_type != PeftType.LORA:
        # Merging may swap modules (LN tuning), or the method may have no merge (Lily).
        return "only LoRA adds to the weights and nothing else"
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        return "the model has no adapted layers"
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in layers:
        for parameter in _base_parameters(layer):
            if parameter.dtype != torch.float32:
                return f"a base weight is {parameter.dtype}, and adding to it would round; only float32 is fused"
            if owners[id(parameter)] > 1:
                return "an adapted weight is tied to another layer, which must not change with it"
    return None


def _base_parameters(layer: BaseTunerLayer) -> list[nn.Parameter]:
    base: nn.Module = layer.get_base_layer()
    return [parameter for parameter in base._parameters.values() if parameter is not None]


class FusedAdapter:
    """The model's active adapter, merged into the weights; `off` and `on` swap the two sets of weights.

    Args:
        model: A PEFT model in float32; it is changed in place, `off` restores it.
        keep_base: Keep the untouched weights, so that `off` works; costs the adapted weights' memory once more.

    Raises:
        AdapterError: When fusing would change results (quantised, 16-bit or tied weights).
    """

    def __init__(self, model: PeftModel, *, keep_base: bool = True) -> None:
        obstacle = fusion_obstacle(model)
        if obstacle is not None:
            raise AdapterError(f"the adapter cannot be fused for decoding: {obstacle}. Decode with the adapter apart")
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._parameters = [parameter for layer in self._layers for parameter in _base_parameters(layer)]
        self._plain: list[torch.Tensor] | None = [parameter.data for parameter in self._parameters]
        try:
            for parameter in self._parameters:
                parameter.data = parameter.data.clone()
            with warnings.catch_warnings(), torch.no_grad():
                # PEFT warns about any tied weights of the model; adapted ones were refused above.
                warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*", category=UserWarning)
                model.merge_adapter()
        except BaseException:
            self.off()
            raise
        self._fused = [parameter.data for parameter in self._parameters]
        self._merged = [list(layer.merged_adapters) for layer in self._layers]
        if not keep_base:
            self._plain = None

    def off(self) -> None:
        """Put the untouched weights back, bit for bit; the adapter works as a separate branch again.

        Raises:
            AdapterError: When the untouched weights were not kept.
        """
        if self._plain is None:
            raise AdapterError("the adapter was fused without keeping the base weights, so it cannot be switched off")
        for parameter, plain in zip(self._parameters, self._plain, strict=True):
            parameter.data = plain
        for layer in self._layers:
            layer.merged_adapters.clear()

    def on(self) -> None:
        """Use the fused weights again."""
        for parameter, fused in zip(self._parameters, self._fused, strict=True):
            parameter.data = fused
        for layer, names in zip(self._layers, self._merged, strict=True):
            layer.merged_adapters[:] = names
