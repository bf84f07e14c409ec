"""A model from its config alone: the right modules and shapes on the meta device, and no weight read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model.precision import choose_dtype
from loratory.model.shapes import read_shapes
from loratory.model.source import first_line, locate_model, read_config_dict
from loratory.model.task import MAPPINGS, ClassHead, choose_task
from loratory.model.uneven import resize


@dataclass(frozen=True, slots=True, eq=False)
class EmptyModel:
    """A model without weights.

    Attributes:
        model: On the meta device, in train mode.
        source: As the user named it.
    """

    model: PreTrainedModel
    source: str


def empty_model(
    section: ModelConfig, *, device: torch.device, has_bfloat16: bool | None = None, head: ClassHead | None = None
) -> EmptyModel:
    """Build the model that `load_model` would load.

    Args:
        section: The configuration's section.
        device: Where it would be, which decides the number format under "auto".
        has_bfloat16: Whether that device computes in bfloat16; None: ask it.
        head: A classification head.

    Raises:
        ModelError: The config is missing or describes no model that transformers knows.
    """
    source = locate_model(section)
    values = read_config_dict(source)
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{source.label}: model_type {model_type!r} has code of its own; a plan needs a family that transformers "
            "knows"
        )
    values.pop("auto_map", None)
    config: Any = CONFIG_MAPPING[model_type]
    try:
        config = config.from_dict(values)
        task = choose_task(section.task, type(config), head, label=source.label)
        if head is not None and head.labels:
            config.id2label = dict(enumerate(head.labels))
        elif head is not None:
            config.num_labels = 1
        model_class: Any = MAPPINGS[task][type(config)]
        has_sdpa = getattr(model_class, "_supports_sdpa", False)
        with torch.device("meta"):
            model = model_class._from_config(config, attn_implementation="sdpa" if has_sdpa else "eager")
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError, RuntimeError) as fault:
        raise ModelError(f"{source.label}: its config describes no model: {first_line(fault)}") from fault
    shapes = read_shapes(Path(source.name)) if source.is_local and source.gguf_file is None else None
    if shapes is not None:
        resize(model, shapes)
    model.tie_weights()
    return EmptyModel(model.to(_dtype(section.dtype, device, has_bfloat16)).train(), source.label)


def is_known_family(section: ModelConfig) -> bool:
    """Whether transformers has the model's code itself, so that an empty one can be built.

    Raises:
        ModelError: The config is missing.
    """
    return read_config_dict(locate_model(section))["model_type"] in CONFIG_MAPPING


def _dtype(name: str, device: torch.device, has_bfloat16: bool | None) -> torch.dtype:
    if name == "auto" and has_bfloat16 is not None:
        return torch.bfloat16 if has_bfloat16 else torch.float32
    return choose_dtype(name, device)
