"""Checks and measures of gradients between backward and the optimizer's step."""

import re
from collections.abc import Mapping

import torch

from loratory.errors import AdapterError

_ADAPTER_PART = re.compile(
    r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|modules_to_save)\b.*"
    r"|\.[^.]+\.default(\.[^.]+)?$"
)
_LILY_BEHIND_B = re.compile(r"\.lily_(A|router)\.")
_SHOWN = 8


def total_norm(parameters: Mapping[str, torch.nn.Parameter]) -> torch.Tensor:
    """Euclidean norm over all trainable gradients, a scalar on their device; inf or nan when any of them is."""
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(gradients)


def scale_to_norm(parameters: Mapping[str, torch.nn.Parameter], max_norm: float, norm: torch.Tensor) -> None:
    """Scale gradients in place so that their total norm is at most `max_norm`."""
    torch.nn.utils.clip_grads_with_norm_(parameters.values(), max_norm, norm)


def non_finite(parameters: Mapping[str, torch.nn.Parameter]) -> list[str]:
    """Names whose gradient holds inf or nan."""
    return [n for n, p in parameters.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: the adapted module, or the module that owns the parameter."""
    layer, replaced = _ADAPTER_PART.subn("", name)
    return layer if replaced else name.rpartition(".")[0]


def refuse_untrained_layers(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Check after the first backward that every targeted layer learns something.

    A layer passes when one of its tensors has a gradient that is not all zero: LoRA's A starts with none, because B
    is zero, and B carries the layer. Experts of a mixture are exempt: the router may not have chosen them yet; so is
    what stands behind Lily's B, which all layers share under the name of the first and which begins at zero.

    Raises:
        AdapterError: Naming the layers without any gradient.
    """
    alive: dict[str, bool] = {}
    for name, parameter in parameters.items():
        if _LILY_BEHIND_B.search(name):
            continue
        layer = layer_of(name)
        has_gradient = parameter.grad is not None and bool(parameter.grad.any())
        alive[layer] = alive.get(layer, False) or has_gradient
    dead = [layer for layer, is_alive in alive.items() if not is_alive and "expert" not in layer]
    if dead or not any(alive.values()):
        shown = ", ".join(dead[:_SHOWN]) + (", …" if len(dead) > _SHOWN else "")
        raise AdapterError(
            f"{len(dead)} of {len(alive)} targeted layers got no gradient in the first step and would never train: "
            f"{shown}. Leave them out of adapter.targets (adapter.exclude), or check that the model uses them."
        )
