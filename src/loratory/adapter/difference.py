"""Two adapters compared: their configurations key by key, their updates layer by layer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loratory.adapter.files import AdapterFiles, read_adapter
from loratory.adapter.inspect import effects_of
from loratory.adapter.manifest import CONFIG_FILE
from loratory.adapter.stack import PREFIX

UNIMPORTANT = frozenset({"peft_version", "inference_mode", "auto_mapping", "revision"})
ENDS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")


@dataclass(frozen=True, slots=True)
class WeightDifference:
    """How two updates of one module, or two tensors of one name, differ.

    Attributes:
        name: Module for a low-rank update, else the tensor.
        relative: ||second - first|| / ||first||; infinite when only the second is not zero.
        cosine: Cosine of the angle between them; 1 when both are zero.
    """

    name: str
    relative: float
    cosine: float


@dataclass(frozen=True, slots=True)
class AdapterDifference:
    """What differs between two adapters.

    Attributes:
        config: Key -> value in the first and in the second, where they differ.
        only_first: Modules or tensors that only the first has.
        only_second: Those that only the second has.
        weights: The others, largest difference first.
        same_base: Whether both manifests name one base; None when one of them has no manifest.
    """

    config: dict[str, tuple[Any, Any]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    weights: tuple[WeightDifference, ...]
    same_base: bool | None

    @property
    def is_same(self) -> bool:
        """Whether both adapters compute the same."""
        return not (self.config or self.only_first or self.only_second or any(w.relative for w in self.weights))


def compare_adapters(first: Path, second: Path) -> AdapterDifference:
    """Compare two adapter folders. Low-rank updates are compared as s B A, so ranks may differ.

    Raises:
        AdapterError, UnsafeError, IntegrityError: As for `read_adapter`.
    """
    one, other = read_adapter(first), read_adapter(second)
    updates_one, updates_other = _updates(one), _updates(other)
    shared = sorted(set(updates_one) & set(updates_other))
    weights = [_difference(name, updates_one[name], updates_other[name]) for name in shared]
    has_both = one.manifest is not None and other.manifest is not None
    return AdapterDifference(
        config=_config_difference(first, second),
        only_first=tuple(sorted(set(updates_one) - set(updates_other))),
        only_second=tuple(sorted(set(updates_other) - set(updates_one))),
        weights=tuple(sorted(weights, key=lambda found: -found.relative)),
        same_base=one.manifest.base_identity == other.manifest.base_identity  # type: ignore[union-attr]
        if has_both
        else None,
    )


def _config_difference(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    one, other = (json.loads((path / CONFIG_FILE).read_text(encoding="utf-8")) for path in (first, second))
    found = {}
    for key in sorted((set(one) | set(other)) - UNIMPORTANT):
        values = tuple(
            sorted(v) if isinstance(v, list) and all(isinstance(i, str) for i in v) else v
            for v in (one.get(key), other.get(key))
        )
        if values[0] != values[1]:
            found[key] = (values[0], values[1])
    return found


def _updates(files: AdapterFiles) -> dict[str, tuple[torch.Tensor, ...]]:
    """Module -> (scaled B, A) for low-rank pairs; other tensors alone."""
    scales = {effect.module: effect.scale for effect in effects_of(files)}
    found: dict[str, tuple[torch.Tensor, ...]] = {}
    for key, tensor in files.tensors.items():
        name = key.removeprefix(PREFIX)
        module = next((name.removesuffix(end) for end in ENDS if name.endswith(end)), None)
        if module is None or module not in scales:
            found[name] = (tensor.double(),)
    for module, scale in scales.items():
        a_end, b_end = (ENDS[0], ENDS[1]) if f"{PREFIX}{module}{ENDS[0]}" in files.tensors else (ENDS[2], ENDS[3])
        a_RI, b_OR = files.tensors[f"{PREFIX}{module}{a_end}"], files.tensors[f"{PREFIX}{module}{b_end}"]
        found[module] = (b_OR.double() * scale, a_RI.double())
    return found


def _difference(name: str, first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> WeightDifference:
    if (
        len(first) != len(second)
        or first[0].shape[0] != second[0].shape[0]
        or first[-1].shape[1:] != second[-1].shape[1:]
    ):
        return WeightDifference(name, float("inf"), float("nan"))
    inner, one, other = _inner(first, second), _inner(first, first), _inner(second, second)
    gap = max(one + other - 2 * inner, 0.0) ** 0.5
    if all(torch.equal(mine, theirs) for mine, theirs in zip(first, second, strict=True)):
        gap = 0.0
    cosine = inner / (one * other) ** 0.5 if one > 0 and other > 0 else float(one == other)
    return WeightDifference(name, gap / one**0.5 if one > 0 else (0.0 if gap == 0 else float("inf")), cosine)


def _inner(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> float:
    """Sum of the products of two tensors' entries; of low-rank ones without forming them."""
    if len(first) == 1:
        return (first[0] * second[0]).sum().item()
    (b, a), (d, c) = first, second
    return ((b.T @ d) * (a @ c.T)).sum().item()
