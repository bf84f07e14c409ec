"""What a model is, told from its config and shape manifest: nothing is loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model.identity import weight_files
from loratory.model.shapes import ModelShapes, read_shapes
from loratory.model.source import first_line, locate_model, read_config_dict, snapshot_folder
from loratory.model.uneven import UNEVEN_FAMILIES, resize, shapes_of


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, without its weights.

    Attributes:
        source: As the user named it.
        architecture: Class of transformers.
        parameters: Number of weights; shared ones count once.
        dtype: Format of the files; None when they do not say.
        size_bytes: Size of the weight files; 0 when they are not on this disk.
        shapes: Widths per layer; None for families without that mechanics.
        has_manifest: Whether the widths come from a shape manifest.
    """

    source: str
    architecture: str
    parameters: int
    dtype: str | None
    size_bytes: int
    shapes: ModelShapes | None
    has_manifest: bool


def describe_model(section: ModelConfig) -> ModelFacts:
    """Tell a model's architecture, widths and size; a pickled model is converted into the cache first.

    Raises:
        ModelError: Missing, unreadable, a GGUF file, or no causal language model.
        UnsafeError, IntegrityError: As for `load_model`.
    """
    source = locate_model(section)
    if source.gguf_file is not None:
        raise ModelError(f"{source.label}: widths of GGUF files are not shown; give the original folder")
    values = read_config_dict(source)
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{source.label}: model_type {model_type!r} is no causal language model known here")
    values.pop("auto_map", None)
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
        with torch.device("meta"):
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError, RuntimeError) as fault:
        raise ModelError(f"{source.label}: its config describes no model: {first_line(fault)}") from fault
    manifest = read_shapes(Path(source.name)) if source.is_local else None
    if manifest is not None:
        resize(model, manifest)
    model.tie_weights()
    dtype = values.get("dtype", values.get("torch_dtype"))
    return ModelFacts(
        source=source.label,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else None,
        size_bytes=sum(path.stat().st_size for path in weight_files(snapshot_folder(source))),
        shapes=manifest or (shapes_of(model) if model_type in UNEVEN_FAMILIES else None),
        has_manifest=manifest is not None,
    )
