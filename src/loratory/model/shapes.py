"""The shape manifest of a model whose layers differ in width, as pruning leaves them.

It is the whole truth about widths that `config.json` has no words for. Beside uneven weights it lies as
`loratory_shapes.json`; whoever reads it checks it before anything is allocated.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loratory.errors import IntegrityError

SHAPES_FILE = "loratory_shapes.json"
FORMAT = 1
MAX_FILE_BYTES = 4 << 20
MAX_LAYERS = 4096
MAX_WIDTH = 1 << 22
LAYER_FIELDS = ("query_heads", "key_value_heads", "ffn_width")
MODEL_FIELDS = ("hidden_size", "vocab_size", "head_dim")


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Widths of one decoder layer.

    Attributes:
        query_heads: Attention heads.
        key_value_heads: Key and value heads; divides `query_heads`.
        ffn_width: Channels of the feed-forward part.
    """

    query_heads: int
    key_value_heads: int
    ffn_width: int

    @property
    def groups(self) -> int:
        """Query heads per key and value head."""
        return self.query_heads // self.key_value_heads


@dataclass(frozen=True, slots=True)
class ModelShapes:
    """Widths of a whole model.

    Attributes:
        hidden_size: Width of the residual stream; one for all layers.
        vocab_size: Rows of the embedding.
        head_dim: Width of one head; one for all layers.
        layers: One entry per layer that the model has.
        layers_kept: For each layer its index in the model before pruning, rising; `range(len(layers))` when none
            was dropped or the original is unknown.

    Raises:
        IntegrityError: A number out of range, or layers that contradict themselves.
    """

    hidden_size: int
    vocab_size: int
    head_dim: int
    layers: tuple[LayerShape, ...]
    layers_kept: tuple[int, ...]

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)!r}; allowed are 1 to {MAX_WIDTH}"
            for name in MODEL_FIELDS
            if not _is_width(getattr(self, name))
        ]
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            faults.append(f"{len(self.layers)} layers; allowed are 1 to {MAX_LAYERS}")
        for index, layer in enumerate(self.layers):
            faults += [f"layer {index}: {fault}" for fault in _layer_faults(layer)]
        rising = all(isinstance(kept, int) for kept in self.layers_kept) and all(
            low < high for low, high in zip((-1, *self.layers_kept), self.layers_kept, strict=False)
        )
        if len(self.layers_kept) != len(self.layers) or not rising:
            faults.append("layers_kept must give one rising index per layer")
        if faults:
            raise IntegrityError("model shapes: " + "; ".join(faults[:8]))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are alike, so that config.json alone can describe the model."""
        return len(set(self.layers)) == 1


def shapes_to_json(shapes: ModelShapes) -> str:
    """The manifest as the text of `loratory_shapes.json`."""
    return json.dumps({"format": FORMAT, **asdict(shapes)}, indent=1) + "\n"


def shapes_from_json(text: str, place: str) -> ModelShapes:
    """Read a manifest; `place` names it in errors.

    Raises:
        IntegrityError: Not a manifest of this format, or one that contradicts itself.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise IntegrityError(f"{place}: not JSON ({type(fault).__name__})") from fault
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise IntegrityError(f"{place}: format is {got!r}; this version reads format {FORMAT}")
    try:
        layers = tuple(LayerShape(*(layer[name] for name in LAYER_FIELDS)) for layer in found["layers"])
        return ModelShapes(
            **{name: found[name] for name in MODEL_FIELDS}, layers=layers, layers_kept=tuple(found["layers_kept"])
        )
    except (KeyError, TypeError) as fault:
        raise IntegrityError(f"{place}: an entry is missing or of the wrong kind: {fault}") from fault
    except IntegrityError as fault:
        raise IntegrityError(f"{place}: {fault}") from fault


def read_shapes(folder: Path) -> ModelShapes | None:
    """The manifest in a model folder, or None when it has none.

    Raises:
        IntegrityError: It cannot be read.
    """
    path = folder / SHAPES_FILE
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_FILE_BYTES:
        raise IntegrityError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; not a shape manifest")
    try:
        return shapes_from_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as fault:
        raise IntegrityError(f"{path}: not UTF-8 text") from fault


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WIDTH


def _layer_faults(layer: LayerShape) -> list[str]:
    faults = [
        f"{name} is {getattr(layer, name)!r}; allowed are 1 to {MAX_WIDTH}"
        for name in LAYER_FIELDS
        if not _is_width(getattr(layer, name))
    ]
    if not faults and layer.query_heads % layer.key_value_heads:
        faults = [f"{layer.query_heads} query heads are no multiple of {layer.key_value_heads} key and value heads"]
    return faults
