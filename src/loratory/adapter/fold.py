"""Folding an adapter into float32 weights in memory, with what each weight's cast to the stored format will lose.

PEFT's algebra layer by layer (plain, rsLoRA, DoRA, rank patterns, biases, modules trained in full); what is added
here is that tied embeddings are counted once, and that nothing overflows unseen.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from loratory.errors import AdapterError, IntegrityError


@dataclass(frozen=True, slots=True, eq=False)
class FoldedModel:
    """A plain model with the adapter inside.

    Attributes:
        model: The model, still float32.
        rounding_loss: Per changed weight ||W' - W - dW|| / ||dW||, W' being the weight in the stored format.
        has_update: Whether any low-rank update is not zero.
        is_untied: Whether embeddings that the base shares had to be separated.
    """

    model: PreTrainedModel
    rounding_loss: dict[str, float]
    has_update: bool
    is_untied: bool


def fold_adapter(model: PeftModel, dtype: torch.dtype) -> FoldedModel:
    """Add the active adapter into the weights.

    Args:
        model: An adapted model in float32; consumed.
        dtype: Format that the weights will be stored in; nothing is cast here.

    Raises:
        IntegrityError: A merged weight does not fit `dtype`.
    """
    was_tied = bool(model.get_base_model().config.tie_word_embeddings)
    _own_weights(model)
    rounding_loss, has_update = _merge_layers(model, dtype)
    with warnings.catch_warnings():
        # The layers are merged above, one by one; this replaces the wrappers. Ties are settled below.
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        folded: PreTrainedModel = model.merge_and_unload()
    return FoldedModel(folded, rounding_loss, has_update, _settle_ties(folded, was_tied=was_tied))


def _own_weights(model: PeftModel) -> None:
    """Give each adapted layer weights of its own, so that an update of tied embeddings is not added twice."""
    seen: set[int] = set()
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    adapted = {id(layer.get_base_layer()) for layer in layers}
    for module in model.modules():
        if id(module) not in adapted:
            seen |= {id(parameter) for parameter in module._parameters.values() if parameter is not None}
    for layer in layers:
        base: nn.Module = layer.get_base_layer()
        for name, parameter in list(base._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) in seen:
                setattr(base, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))


def _merge_layers(model: PeftModel, dtype: torch.dtype) -> tuple[dict[str, float], bool]:
    """Merge layer by layer; the share of each update that casting to `dtype` loses, by weight name; and whether
    there is any update."""
    losses: dict[str, float] = {}
    has_update = False
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        weight: torch.Tensor = layer.get_base_layer().weight
        before = weight.detach().clone()
        delta = _delta(layer)
        with torch.no_grad():
            merge_layer(layer, safe_merge=True)
        # Most of PEFT's layers know that they are merged; osf would be added again while it is unwrapped.
        layer.__dict__["merge"] = _merge_no_more
        after: torch.Tensor = layer.get_base_layer().weight.detach()
        delta = after - before if delta is None else delta
        stored = after.to(dtype)
        if not torch.isfinite(stored).all():
            raise IntegrityError(
                f"{name}.weight does not fit {dtype}: the merged weights reach {after.abs().max().item():.3g}, the "
                f"format {torch.finfo(dtype).max:.3g}. Nothing was published; merge to bfloat16 or float32"
            )
        size = delta.double().norm().item()
        lost = (stored.double() - before.double() - delta.double()).norm().item()
        losses[f"{name}.weight"] = lost / size if size > 0 else 0.0
        has_update = has_update or size > 0
    return losses, has_update


def merge_layer(layer: Any, *, safe_merge: bool) -> None:
    """PEFT's merge of one layer.

    Raises:
        AdapterError: Its method has none.
    """
    try:
        layer.merge(safe_merge=safe_merge)
    except NotImplementedError as error:
        raise AdapterError(
            f"PEFT cannot merge a {type(layer).__module__.split('.')[-2]} layer into its base; load the adapter "
            "beside the base instead"
        ) from error


def _merge_no_more(*, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
    """In the place of a merged layer's `merge`."""


def _delta(layer: Any) -> torch.Tensor | None:
    """The plain low-rank update, or None for a variant (DoRA) or another method, which PEFT computes otherwise."""
    if not isinstance(layer, LoraLayer) or getattr(layer, "lora_variant", None):
        return None
    delta: torch.Tensor = layer.get_delta_weight(layer.active_adapters[0])
    return delta.detach()


def _settle_ties(model: PreTrainedModel, *, was_tied: bool) -> bool:
    """Whether embeddings that the base shares had to be separated; ones that changed alike are shared again."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not was_tied or head is None:
        return False
    if head.weight is not embedding.weight and torch.allclose(head.weight, embedding.weight, rtol=1e-5, atol=1e-6):
        head.weight = embedding.weight
    is_shared = head.weight is embedding.weight
    model.config.tie_word_embeddings = is_shared
    return not is_shared
