"""Multiply-accumulates of one forward pass, counted from the shapes of the layers; nothing is run.

Counted: every linear layer (LoRA branches too, unless they are merged) at every position, the head included, and
attention's two products over the full square of positions, as torch's flop counter does. Norms, activations and rotary
embeddings are not.
"""

from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.errors import ModelError
from loratory.tree.eligibility import base_of

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
# What leads out of attention: its input width is query heads times head width, also after uneven pruning.
OUTPUT_NAMES = ("o_proj", "dense", "out_proj", "c_proj", "wo")


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one sequence.

    Attributes:
        linear: Of linear layers, head included.
        attention: Of queries with keys and of weights with values.
    """

    linear: int
    attention: int

    @property
    def total(self) -> int:
        """Of both."""
        return self.linear + self.attention


def count_macs(model: PreTrainedModel | PeftModel, *, num_tokens: int) -> Macs:
    """Count a forward pass over one sequence.

    Args:
        model: The model; an adapter that is not merged counts too.
        num_tokens: Length of the sequence.

    Raises:
        ModelError: The model has weights that are used in a way that cannot be counted from shapes (mixtures of
            experts), or no attention of a known form.
    """
    counted: set[int] = set()
    idle = _merged_branches(model)
    linear = 0
    for module in model.modules():
        width = _linear_size(module)
        if width is not None and id(module) not in idle:
            linear += width * num_tokens
        if width is not None or isinstance(module, nn.Embedding):
            counted.update(id(parameter) for parameter in module.parameters(recurse=False))
    base = base_of(model)
    unknown = [n for n, p in base.named_parameters() if p.ndim > 1 and id(p) not in counted]
    if unknown:
        raise ModelError(f"multiply-accumulates cannot be counted from shapes: '{unknown[0]}' is no linear layer")
    widths = [_attention_width(module) for name, module in base.named_modules() if _is_attention(name, module)]
    if not widths:
        raise ModelError(
            f"multiply-accumulates cannot be counted: no attention of a known form in {type(base).__name__}"
        )
    return Macs(linear, sum(2 * width * num_tokens**2 for width in widths))


def _merged_branches(model: nn.Module) -> set[int]:
    """Modules of adapters that are merged into their base layers: there, but not computed."""
    return {
        id(module)
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer) and layer.merged
        for name in layer.adapter_layer_names
        for module in getattr(layer, name).modules()
        if isinstance(getattr(layer, name), nn.Module)
    }


def _linear_size(module: nn.Module) -> int | None:
    """Multiply-accumulates per token of a linear layer, None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0] * module.weight.shape[1])
    return None


def _is_attention(name: str, module: nn.Module) -> bool:
    return name.rpartition(".")[2] in ATTENTION_NAMES and any(hasattr(module, each) for each in OUTPUT_NAMES)


def _attention_width(module: nn.Module) -> int:
    output = next(getattr(module, name) for name in OUTPUT_NAMES if hasattr(module, name))
    inner = output.get_base_layer() if hasattr(output, "get_base_layer") else output
    return int(inner.weight.shape[0] if isinstance(inner, Conv1D) else inner.in_features)
