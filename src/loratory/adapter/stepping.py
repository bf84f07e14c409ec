"""What an adapter method does around each optimizer step. Most do nothing; AdaLoRA moves its ranks.

AdaLoRA (arXiv 2303.10512) adds a penalty that keeps its factors orthogonal, and after each step takes ranks from the
layers where they matter least. What it has learnt of importance belongs to a checkpoint.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from peft import AdaLoraModel, PeftModel

from loratory.adapter.method import UNKNOWN_STEPS
from loratory.adapter.stack import ADAPTER
from loratory.errors import AdapterError

_MOMENTS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class StepHook(Protocol):
    """Called by the engine; see `adapter_hook`."""

    def begin(self, total_steps: int) -> None:
        """The run's length is known; nothing was trained yet."""

    def before_update(self, scale: float) -> None:
        """Gradients are complete, multiplied by `scale`; what is added now is clipped with them."""

    def after_update(self, step: int) -> None:
        """The optimizer has done its 1-based `step`; gradients are still there."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold besides the trained tensors."""

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave."""


class NoHook:
    """Of methods that leave steps alone."""

    def begin(self, total_steps: int) -> None:
        """Nothing."""

    def before_update(self, scale: float) -> None:
        """Nothing."""

    def after_update(self, step: int) -> None:
        """Nothing."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """None."""
        return {}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing."""


class AdaLoraHook:
    """Of AdaLoRA.

    Args:
        tuner: PEFT's model of it.
    """

    def __init__(self, tuner: AdaLoraModel) -> None:
        self._tuner = tuner
        self._config: Any = tuner.peft_config[ADAPTER]

    def begin(self, total_steps: int) -> None:
        """Set the length of the schedule, unless the options name one.

        Raises:
            AdapterError: The schedule does not fit into the run.
        """
        config = self._config
        if config.total_step == UNKNOWN_STEPS:
            config.total_step = total_steps
        if config.tinit + config.tfinal >= config.total_step:
            raise AdapterError(
                f"adapter.options: tinit {config.tinit} and tfinal {config.tfinal} leave none of the "
                f"{config.total_step} steps for giving up ranks; lower them or train longer"
            )
        self._tuner.rankallocator.set_total_step(config.total_step)

    def before_update(self, scale: float) -> None:
        """Add the gradient of the penalty orth_reg_weight * mean ||P Pᵀ - I||_F."""
        weight = self._config.orth_reg_weight
        if not weight:
            return
        penalties = []
        for name, parameter in self._tuner.model.named_parameters():
            if not parameter.requires_grad or not ("lora_A" in name or "lora_B" in name):
                continue
            product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            penalties.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
        penalty = torch.stack(penalties).mean() * (weight * scale)
        penalty.backward()

    def after_update(self, step: int) -> None:
        """Note importance and give up ranks, by PEFT's allocator."""
        self._tuner.update_and_allocate(step)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Importance of each weight, and which ranks are alive."""
        allocator = self._tuner.rankallocator
        found = {f"{kind}//{n}": t for kind in _MOMENTS for n, t in getattr(allocator, kind).items()}
        alive = self._config.rank_pattern or {}
        found |= {f"alive//{name}": torch.tensor(mask) for name, mask in alive.items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put importance and ranks back."""
        parameters = dict(self._tuner.model.named_parameters())
        for kind in _MOMENTS:
            mine = {key.partition("//")[2]: t for key, t in tensors.items() if key.startswith(f"{kind}//")}
            setattr(self._tuner.rankallocator, kind, {n: t.to(parameters[n].device) for n, t in mine.items()})
        alive = {k.partition("//")[2]: t.tolist() for k, t in tensors.items() if k.startswith("alive//")}
        self._config.rank_pattern = alive or None


def adapter_hook(model: torch.nn.Module) -> StepHook:
    """The hook of a model's adapter."""
    if isinstance(model, PeftModel) and isinstance(model.base_model, AdaLoraModel):
        return AdaLoraHook(model.base_model)
    return NoHook()
