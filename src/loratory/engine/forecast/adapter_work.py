"""What an adapter computes beyond thin products with the rows: whole updated weights, rotations, norms of weights.

A plain LoRA multiplies rows by two thin matrices, and its work is counted from their sizes. LoHa, LoKr, BOFT, HRA and
others build a matrix as large as the weight in every pass, and many multiply by it. How much that is, a trace of the
model's own layers tells.
"""

from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from loratory.engine.forecast.model_size import LinearSize, ModelSize
from loratory.engine.forecast.trace import trace
from loratory.tree.eligibility import base_of


@dataclass(frozen=True, slots=True)
class AdapterWork:
    """Forward and backward together.

    Attributes:
        flops_per_token: Operations of matrix products.
        flops_per_pass: Those that do not depend on the rows.
        moved_per_pass: Bytes that operations on weights read and write, which do not depend on the rows.
    """

    flops_per_token: float
    flops_per_pass: float
    moved_per_pass: float

    def flops(self, num_tokens: int) -> float:
        """Operations of a pass; none without tokens."""
        return num_tokens * self.flops_per_token + self.flops_per_pass if num_tokens else 0.0


THIN_ONLY = AdapterWork(0.0, 0.0, 0.0)
"""A plain LoRA, or no adapter."""


def adapter_work(model: PeftModel | PreTrainedModel, size: ModelSize) -> AdapterWork:
    """Trace a model in training; where that cannot be done, no work beyond thin products is known.

    Args:
        model: With its adapter; not changed.
        size: Its sizes.
    """
    if all(_is_plain(module) for module in model.modules() if isinstance(module, BaseTunerLayer)):
        return THIN_ONLY
    found = trace(base_of(model), backward=True)
    if found is None or found.flops is None or found.moved is None:
        return THIN_ONLY
    counted = sum(token_flops(layer) + thin_flops(layer) for layer in size.linears)
    return AdapterWork(max(0.0, found.flops.per_token - counted), found.flops.besides, found.moved.besides)


def token_flops(layer: LinearSize) -> float:
    """Operations of one token with the weight: the output, the gradient of the input, and that of a trained weight."""
    return 2.0 * layer.inputs * layer.outputs * (3 if layer.is_trained else 2)


def thin_flops(layer: LinearSize) -> float:
    """Operations that one token takes with the adapter's numbers, each used once a product."""
    return 2.0 * layer.adapter * 3


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, LoraLayer) and not module.lora_variant
