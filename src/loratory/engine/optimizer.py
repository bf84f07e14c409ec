"""Optimizers and their parameter groups: who decays, who learns at which rate (LoRA+)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from loratory.config import TrainConfig
from loratory.errors import AdapterError, MissingExtraError


@dataclass(frozen=True, slots=True, eq=False)
class NamedOptimizer:
    """An optimizer and the names of its parameters, in the order in which it numbers them.

    Attributes:
        optimizer: Its groups carry `peak_lr`, the rate before the schedule's factor.
        names: Name of parameter i.
    """

    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]

    def set_rate(self, factor: float) -> None:
        """Set every group's rate to `factor` times its peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter for everything that is trained, shared parameters once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def peak_rate(name: str, parameter: torch.Tensor, section: TrainConfig) -> float:
    """Peak learning rate of a parameter: LoRA+ (arXiv 2402.12354) gives B and 1-D tensors `ratio` times A's rate.

    Adapted embeddings (`lora_embedding_B`) get `loraplus_lr_embedding`. Without a ratio all rates are equal.
    """
    if section.loraplus_lr_ratio is None:
        return section.learning_rate
    if "lora_embedding_B" in name:
        return section.loraplus_lr_embedding
    if "lora_B" in name or parameter.ndim == 1:
        return section.learning_rate * section.loraplus_lr_ratio
    return section.learning_rate


def parameter_groups(
    parameters: Mapping[str, torch.nn.Parameter], section: TrainConfig
) -> list[tuple[dict[str, Any], list[str]]]:
    """Groups of equal rate and decay, each with its names. Tensors of fewer than 2 axes (biases, norms) never decay."""
    grouped: dict[tuple[float, float], list[str]] = {}
    for name, parameter in parameters.items():
        decay = section.weight_decay if parameter.ndim >= 2 else 0.0
        grouped.setdefault((peak_rate(name, parameter, section), decay), []).append(name)
    return [
        ({"params": [parameters[n] for n in names], "lr": rate, "peak_lr": rate, "weight_decay": decay}, names)
        for (rate, decay), names in grouped.items()
    ]


def make_optimizer(parameters: Mapping[str, torch.nn.Parameter], section: TrainConfig) -> NamedOptimizer:
    """Build the optimizer over these parameters.

    Raises:
        AdapterError: Nothing is trainable.
        MissingExtraError: An 8-bit or paged form without bitsandbytes.
    """
    if not parameters:
        raise AdapterError("nothing is trainable: the adapter targets no layer. Check adapter.targets.")
    groups = parameter_groups(parameters, section)
    names = tuple(name for _, members in groups for name in members)
    return NamedOptimizer(_build([group for group, _ in groups], section), names)


def _build(groups: Iterable[dict[str, Any]], section: TrainConfig) -> torch.optim.Optimizer:
    betas = (section.adam_beta1, section.adam_beta2)
    if section.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=section.learning_rate)
    if section.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=section.learning_rate, betas=betas, eps=section.adam_epsilon, fused=True)
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise MissingExtraError(f"train.optimizer: {section.optimizer}", "quantization") from error
    kind = {
        "adamw_8bit": optim.AdamW8bit,
        "paged_adamw": optim.PagedAdamW,
        "paged_adamw_8bit": optim.PagedAdamW8bit,
    }[section.optimizer]
    optimizer: torch.optim.Optimizer = kind(groups, lr=section.learning_rate, betas=betas, eps=section.adam_epsilon)
    return optimizer
