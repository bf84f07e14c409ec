"""Merging tensor by tensor: what the adapter changes is added in float32 and cast once, all else is copied as bytes.

Low-rank updates of plain layers are added in blocks of rows. For every other method PEFT's own layer does its own
merge, one layer with weights at a time. The slow twin is `loratory.adapter.fold`, which merges a model in memory.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Embedding as LoraEmbedding
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper

from loratory.adapter.base_form import BaseForm
from loratory.adapter.files import AdapterFiles
from loratory.adapter.fold import merge_layer
from loratory.adapter.load import apply_adapter
from loratory.adapter.peft_file import LoraFile
from loratory.adapter.shards import CODES, DTYPES, Entry
from loratory.adapter.skeleton import Skeleton, filled
from loratory.adapter.stack import ADAPTER, PREFIX
from loratory.errors import AdapterError, IntegrityError

BLOCK_NUMBERS = 2 << 20
WRAPPERS = ("base_layer.", "original_module.", "token_adapter.")
FROM_WEIGHTS = frozenset({"adamss", "frod", "osf", "psoft"})
"""Methods whose layers are made from the base's weights, which a skeleton does not have at that time."""


@dataclass(slots=True)
class Rounding:
    """Squared norms of one tensor's update and of what the stored format loses of it."""

    update: float = 0.0
    lost: float = 0.0

    @property
    def share(self) -> float:
        """||W' - W - dW|| / ||dW||."""
        return float((self.lost / self.update) ** 0.5) if self.update > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class StreamedAdapter:
    """An adapter on a skeleton.

    Attributes:
        skeleton: The base; its model carries the adapter's layers now.
        adapted: The adapted model, without weights of the base.
        layers: Full parameter name -> the adapter layer that changes it.
        replaced: Full parameter name -> its new value, for biases and modules trained in full.
        base: The base's weights.
        rounding: Filled while tensors are merged.
    """

    skeleton: Skeleton
    adapted: PeftModel
    layers: dict[str, BaseTunerLayer]
    replaced: dict[str, torch.Tensor]
    base: BaseForm
    rounding: dict[str, Rounding] = field(default_factory=dict)

    @property
    def changed(self) -> set[str]:
        """Full names of the parameters that the adapter changes."""
        return {*self.layers, *self.replaced}

    @property
    def below(self) -> BaseForm:
        """Weights as the adapter's layers need them below them: the base's, or the biases that were trained."""
        return self.base.with_values(self.replaced)

    def blocks(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A merged weight in float32, in blocks of rows, each with its update."""
        if name in self.layers:
            layer = self.layers[name]
            factors = low_rank(layer, name)
            if factors is None:
                yield from self._merge_layer(layer, name)
            else:
                left_OR, right_RI = factors
                step = max(1, BLOCK_NUMBERS // max(1, right_RI.shape[1]))
                for rows, weight in self.base.by_rows(name, len(left_OR), step=step):
                    update = left_OR[rows] @ right_RI
                    yield weight + update, update
        else:
            value = self.replaced[name].float()
            yield value, value - self.base.read(name)

    def _merge_layer(self, layer: Any, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inside = [(self.skeleton.parameters[id(p)], p) for p in layer.parameters() if self._is_base(p)]
        with filled(inside, self.below.read), torch.no_grad():
            merge_layer(layer, safe_merge=False)
            merged = dict(layer.get_base_layer().named_parameters())[name.rsplit(".", 1)[-1]].detach()
            _forget_merge(layer)
        yield merged, merged - self.base.read(name)

    def _is_base(self, parameter: torch.Tensor) -> bool:
        return id(parameter) in self.skeleton.parameters


def put_on_skeleton(skeleton: Skeleton, files: AdapterFiles) -> StreamedAdapter:
    """Put an adapter on a skeleton, whose model is changed.

    Raises:
        AdapterError: The method has nothing that can be merged.
        IntegrityError: It does not fit.
    """
    adapted = apply_adapter(skeleton.model, files, trainable=False)
    layers: dict[str, BaseTunerLayer] = {}
    replaced = _replaced_biases(skeleton, files)
    for path, module in adapted.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            own = module.modules_to_save[ADAPTER]
            replaced |= {f"{path}.{key}": p.detach() for key, p in own.named_parameters()}
        elif isinstance(module, BaseTunerLayer):
            for key, parameter in module.named_parameters():
                if id(parameter) in skeleton.parameters:
                    layers.setdefault(_base_name(f"{path}.{key}"), module)
    if not layers and not replaced:
        raise AdapterError(
            f"adapter {files.path}: its method changes no weights of the base (prompts, prefixes), so there is "
            "nothing to merge; load it beside the base instead"
        )
    return StreamedAdapter(skeleton, adapted, layers, replaced, skeleton.original)


def streaming_obstacle(config: LoraFile) -> str | None:
    """Why an adapter cannot be put on a skeleton, or None when it can."""
    if config.method in FROM_WEIGHTS:
        return f"{config.method} makes its layers from the base's weights"
    return None


def low_rank(layer: Any, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Factors left_OR, right_RI (scale included) of a plain layer's update, laid out as its weight is stored.

    None when PEFT's own merge is needed: another method, a variant (DoRA), a bias on B, several adapters at once.
    """
    if type(layer) not in (LoraLinear, LoraEmbedding) or not name.endswith(".weight"):
        return None
    if getattr(layer, "lora_variant", None) or layer.active_adapters != [ADAPTER]:
        return None
    if getattr(layer, "lora_bias", {}).get(ADAPTER):
        return None
    scale = layer.scaling[ADAPTER]
    if isinstance(layer, LoraEmbedding):
        a_RV, b_DR = layer.lora_embedding_A[ADAPTER].detach(), layer.lora_embedding_B[ADAPTER].detach()
        return a_RV.T.float(), b_DR.T.float() * scale
    a_RI, b_OR = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
    if layer.fan_in_fan_out:
        return a_RI.T.float(), b_OR.T.float() * scale
    return b_OR.float() * scale, a_RI.float()


def entries_for(
    merged: StreamedAdapter, dtype: torch.dtype | None, rewritten: Collection[str] = ()
) -> dict[str, dict[str, Entry]]:
    """What each shard of the merged model holds.

    Args:
        merged: The adapter on its skeleton.
        dtype: Format of the weights; None keeps that of each tensor.
        rewritten: Parameters that differ from the files although the adapter does not change them.

    Returns:
        Shard's file name -> stored name -> what to write.
    """
    reader, apart = merged.skeleton.reader, set(separated(merged))
    owners: dict[str, list[str]] = {}
    for name, stored in merged.skeleton.names.items():
        owners.setdefault(stored, []).append(name)
    shards: dict[str, dict[str, Entry]] = {}
    for stored, tensor in sorted(reader.tensors.items(), key=lambda item: (item[1].file.name, item[1].offset)):
        shard = shards.setdefault(tensor.file.name, {})
        code = CODES[dtype] if dtype is not None and tensor.is_float else tensor.code
        names = owners.get(stored, [])
        own = next((name for name in names if _is_own(name, stored)), names[0] if names else stored)
        if apart.isdisjoint(names):
            # Shared weights that all changed alike are one: any of their names stands for them.
            names = [next((name for name in names if name in merged.changed), own)]
            own = names[0]
        for name in names:
            pieces = _pieces(merged, name, stored, code, is_rewritten=name in rewritten)
            shard[stored if name == own else name] = Entry(code, tensor.shape, pieces)
    return shards


def separated(merged: StreamedAdapter) -> tuple[str, ...]:
    """Names of weights that the base shares and the adapter changes differently."""
    for names in merged.skeleton.ties.values():
        changed = [name for name in names if name in merged.changed]
        if changed and not (len(changed) == len(names) and _are_alike(merged, changed)):
            return names
    return ()


def has_update(merged: StreamedAdapter) -> bool:
    """Whether the adapter changes any number; stops at the first."""
    return any(bool(update.any()) for name in sorted(merged.changed) for _, update in merged.blocks(name))


def _pieces(
    merged: StreamedAdapter, name: str, stored: str, code: str, *, is_rewritten: bool
) -> Callable[[], Iterator[bytes | torch.Tensor]]:
    reader = merged.skeleton.reader
    if name in merged.changed:
        return lambda: _merged_pieces(merged, name, DTYPES[code])
    if is_rewritten:
        return lambda: _cast_pieces(merged.base.read(name), name, DTYPES[code])
    if code == reader.tensors[stored].code:
        return lambda: reader.raw(stored)
    return lambda: (_cast(block, name, DTYPES[code]) for block in reader.blocks(stored))


def _is_own(name: str, stored: str) -> bool:
    return name == stored or name.endswith(f".{stored}") or stored.endswith(f".{name}")


def _are_alike(merged: StreamedAdapter, names: list[str]) -> bool:
    first = torch.cat([block for block, _ in merged.blocks(names[0])])
    return all(
        torch.allclose(first, torch.cat([block for block, _ in merged.blocks(name)]), rtol=1e-5, atol=1e-6)
        for name in names[1:]
    )


def _merged_pieces(merged: StreamedAdapter, name: str, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    rounding = merged.rounding[name] = Rounding()
    for value, update in merged.blocks(name):
        stored = _cast(value, name, dtype)
        if dtype != torch.float32:
            rounding.lost += (stored.float() - value).double().square().sum().item()
        rounding.update += update.double().square().sum().item()
        yield stored


def _cast_pieces(value: torch.Tensor, name: str, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    for block in torch.split(value.reshape(-1), BLOCK_NUMBERS):
        yield _cast(block, name, dtype)


def _cast(value: torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
    stored = value.to(dtype)
    if not torch.isfinite(stored).all():
        raise IntegrityError(
            f"{name} does not fit {dtype}: the merged weights reach {value.abs().max().item():.3g}, the "
            f"format {torch.finfo(dtype).max:.3g}. Nothing was published; merge to bfloat16 or float32"
        )
    return stored


def _replaced_biases(skeleton: Skeleton, files: AdapterFiles) -> dict[str, torch.Tensor]:
    names = skeleton.names
    found = {}
    for key, tensor in files.tensors.items():
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if name in names and name.endswith("bias"):
            found[name] = tensor
    return found


def _base_name(path: str) -> str:
    for wrapper in WRAPPERS:
        path = path.replace(wrapper, "")
    return path


def _forget_merge(layer: Any) -> None:
    """Make the layer unmerged again without computing anything; a layer that swapped its module swaps it back."""
    if type(layer).__name__ == "LNTuningLayer":
        layer.unmerge()
    layer.merged_adapters.clear()


def rounding_loss(merged: StreamedAdapter) -> Mapping[str, float]:
    """Share of each changed tensor's update that the stored format lost, by name."""
    return {name: found.share for name, found in sorted(merged.rounding.items())}
