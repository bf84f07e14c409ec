"""What is in an adapter, from its files alone: no base model is needed.

The effect of a layer's update is the Frobenius norm of s B A, computed from R x R products: the update itself, as
large as the layer, is never formed.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.manifest import TENSORS_FILE
from loratory.adapter.pattern import ends_with_any, expand_pattern
from loratory.adapter.peft_file import LoraFile
from loratory.adapter.stack import PREFIX

PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """The update of one layer.

    Attributes:
        module: Full module name in the base.
        rank: Its rank.
        scale: What multiplies B A.
        norm: Frobenius norm of the scaled update (for DoRA: of the direction's update, before its magnitude).
    """

    module: str
    rank: int
    scale: float
    norm: float


@dataclass(frozen=True, slots=True)
class AdapterCard:
    """What an adapter folder holds.

    Attributes:
        path: The folder.
        method: "LoRA" or "DoRA".
        rank: Rank of the layers that have no own.
        alpha: Alpha of the layers that have no own.
        use_rslora: Whether the scale is alpha / sqrt(rank).
        targets: Leaf names of the adapted layers.
        modules_to_save: Names of modules saved in full.
        num_tensors: Tensors in the file.
        num_parameters: Numbers in them.
        num_bytes: Size of the weights' file.
        layers: Each layer's update, in order of name.
        has_no_effect: Whether every update is zero and nothing else is saved: the base answers the same without it.
        base_name: The base that its PEFT file names.
        base_identity: The base's identity, when the manifest tells.
        quantization: How the base was quantised in training, when the manifest tells.
        is_verified: Whether a manifest vouches for the files.
    """

    path: Path
    method: str
    rank: int
    alpha: float
    use_rslora: bool
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    num_tensors: int
    num_parameters: int
    num_bytes: int
    layers: tuple[LayerEffect, ...]
    has_no_effect: bool
    base_name: str | None
    base_identity: str | None
    quantization: str | None
    is_verified: bool


def describe_adapter(path: Path) -> AdapterCard:
    """Read an adapter folder and describe it.

    Raises:
        AdapterError, UnsafeError, IntegrityError: As for `loratory.adapter.read_adapter`.
    """
    files = read_adapter(path)
    config, manifest = files.config, files.manifest
    layers = effects_of(files)
    plain = sum(1 for first, second in PAIRS for key in files.tensors if key.endswith((first, second)))
    return AdapterCard(
        path=path,
        method="DoRA" if config.use_dora else "LoRA",
        rank=config.rank,
        alpha=config.alpha,
        use_rslora=config.use_rslora,
        targets=tuple(dict.fromkeys(layer.module.rsplit(".", 1)[-1] for layer in layers)),
        modules_to_save=config.modules_to_save,
        num_tensors=len(files.tensors),
        num_parameters=sum(tensor.numel() for tensor in files.tensors.values()),
        num_bytes=(path / TENSORS_FILE).stat().st_size,
        layers=layers,
        has_no_effect=plain == len(files.tensors) and all(layer.norm == 0 for layer in layers),
        base_name=config.base_name,
        base_identity=manifest.base_identity if manifest else None,
        quantization=manifest.quantization if manifest else None,
        is_verified=manifest is not None,
    )


def effects_of(files: AdapterFiles) -> tuple[LayerEffect, ...]:
    """The low-rank update of each layer, in order of name; nothing for other methods."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for a_end, b_end in PAIRS:
        for key, a_RI in files.tensors.items():
            b_OR = files.tensors.get(key.removesuffix(a_end) + b_end)
            if key.endswith(a_end) and b_OR is not None:
                found[key.removeprefix(PREFIX).removesuffix(a_end)] = (a_RI, b_OR)
    names = sorted(found)
    scales = _scales(files.config, {name: found[name][0].shape[0] for name in names})
    return tuple(
        LayerEffect(
            module=name,
            rank=found[name][0].shape[0],
            scale=scales[name],
            norm=scales[name] * product_norm(*found[name]),
        )
        for name in names
    )


def _scales(config: LoraFile, ranks: dict[str, int]) -> dict[str, float]:
    own = expand_pattern(config.alpha_pattern, list(ranks), key="alpha_pattern") if ranks else {}
    scales = {}
    for name, rank in ranks.items():
        alpha = next((value for key, value in own.items() if ends_with_any(name, [key])), config.alpha)
        scales[name] = alpha / (rank**0.5 if config.use_rslora else rank)
    return scales


def product_norm(a_RI: torch.Tensor, b_OR: torch.Tensor) -> float:
    """Frobenius norm of b_OR @ a_RI: sqrt(sum((BᵀB) * (AAᵀ))), in float64."""
    a, b = a_RI.double(), b_OR.double()
    squared = ((b.T @ b) * (a @ a.T)).sum().item()
    return float(max(squared, 0.0) ** 0.5)
