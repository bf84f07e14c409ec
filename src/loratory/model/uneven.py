"""Models of stock classes whose layers differ in width: building, measuring and saving them.

Nothing is patched: transformers' attention views its projections by head width, so a model with other linear layers
in it runs as it is, once each layer knows its own number of query heads per key and value head. What stock loading
cannot do is read the widths back; `loratory_shapes.json` does that.

Law kept: a loaded uneven model is an instance of the stock class, with the logits of the model that was saved.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import IntegrityError, ModelError
from loratory.model.shapes import SHAPES_FILE, LayerShape, ModelShapes, read_shapes, shapes_to_json
from loratory.run.commit import publish_directory, write_text

__all__ = [
    "UNEVEN_FAMILIES",
    "LayerShape",
    "ModelShapes",
    "build_uneven",
    "config_for",
    "projection_paths",
    "projection_shapes",
    "read_shapes",
    "resize",
    "save_uneven",
    "shapes_of",
    "uneven_class",
    "write_model",
]

# Families whose layers hold q/k/v/o_proj and gate/up/down_proj, and whose attention views by head width.
UNEVEN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")


class ProjectionShape(NamedTuple):
    """Rows (outputs) and columns (inputs) of a linear layer's weight."""

    rows: int
    columns: int


def build_uneven(config: PreTrainedConfig, shapes: ModelShapes) -> PreTrainedModel:
    """Make a randomly initialised model of the config's stock class with the widths of `shapes`.

    Args:
        config: A configuration of a family in `UNEVEN_FAMILIES`; copied, and its counts replaced by those of `shapes`.
        shapes: Widths.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        ModelError: The family is not supported.
    """
    ready = config_for(config, shapes)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(ready)]
    model = model_class(ready)
    resize(model, shapes)
    return cast(PreTrainedModel, model.eval())


def config_for(config: PreTrainedConfig, shapes: ModelShapes) -> PreTrainedConfig:
    """A copy of the configuration that describes the smallest stock model which contains the uneven one.

    Raises:
        ModelError: The family is not supported.
    """
    if config.model_type not in UNEVEN_FAMILIES:
        raise ModelError(
            f"model_type {config.model_type!r} cannot have layers of different widths here; "
            f"supported are {', '.join(UNEVEN_FAMILIES)}"
        )
    values = copy.deepcopy(config).to_dict()
    key_value_heads, groups = containing_heads(shapes) or (1, 1)
    values |= {
        "hidden_size": shapes.hidden_size,
        "vocab_size": shapes.vocab_size,
        "head_dim": shapes.head_dim,
        "num_hidden_layers": len(shapes.layers),
        "num_attention_heads": key_value_heads * groups,
        "num_key_value_heads": key_value_heads,
        "intermediate_size": max(layer.ffn_width for layer in shapes.layers),
    }
    if (kinds := values.get("layer_types")) and len(kinds) != len(shapes.layers):
        if shapes.layers_kept[-1] >= len(kinds):
            raise ModelError(f"layers_kept names layer {shapes.layers_kept[-1]}, the config has {len(kinds)}")
        values["layer_types"] = [kinds[kept] for kept in shapes.layers_kept]
    return cast(PreTrainedConfig, type(config).from_dict(values))


def containing_heads(shapes: ModelShapes) -> tuple[int, int] | None:
    """(key and value heads, query heads per one) of the smallest stock attention that contains every layer's.

    transformers demands that the hidden size is a multiple of the number of heads. None: no number fulfils that.
    """
    least = max(layer.key_value_heads for layer in shapes.layers)
    groups = max(layer.groups for layer in shapes.layers)
    fitting = [
        (key_value * group, key_value, group)
        for group in range(groups, 4 * groups + 1)
        for key_value in range(least, shapes.hidden_size // group + 1)
        if shapes.hidden_size % (key_value * group) == 0
    ]
    if not fitting:
        return None
    _, key_value, group = min(fitting)
    return key_value, group


def projection_shapes(layer: LayerShape, hidden_size: int, head_dim: int) -> dict[str, ProjectionShape]:
    """Weight shapes of the seven linear layers of a decoder layer, by module path below it."""
    query, key_value = layer.query_heads * head_dim, layer.key_value_heads * head_dim
    return {
        "self_attn.q_proj": ProjectionShape(query, hidden_size),
        "self_attn.k_proj": ProjectionShape(key_value, hidden_size),
        "self_attn.v_proj": ProjectionShape(key_value, hidden_size),
        "self_attn.o_proj": ProjectionShape(hidden_size, query),
        "mlp.gate_proj": ProjectionShape(layer.ffn_width, hidden_size),
        "mlp.up_proj": ProjectionShape(layer.ffn_width, hidden_size),
        "mlp.down_proj": ProjectionShape(hidden_size, layer.ffn_width),
    }


def resize(model: PreTrainedModel, shapes: ModelShapes) -> None:
    """Give each layer of a fresh model its own widths; replaced linears are random, of the same dtype and device."""
    for module, shape in zip(_decoder_layers(model), shapes.layers, strict=True):
        for path, wanted in projection_shapes(shape, shapes.hidden_size, shapes.head_dim).items():
            linear = module.get_submodule(path)
            if tuple(linear.weight.shape) != wanted:
                parent, _, name = path.rpartition(".")
                setattr(module.get_submodule(parent), name, _linear_like(linear, wanted, model.config))
        module.self_attn.num_key_value_groups = shape.groups


def shapes_of(model: PreTrainedModel) -> ModelShapes:
    """Measure a model's layers; LoRA layers count as the linear below them.

    Raises:
        ModelError: The family is not supported.
        IntegrityError: Projections of a layer contradict each other; the message names layer and shapes.
    """
    config = model.config
    if config.model_type not in UNEVEN_FAMILIES:
        raise ModelError(f"model_type {config.model_type!r} is not one of {', '.join(UNEVEN_FAMILIES)}")
    embedding = model.get_input_embeddings().weight
    vocab_size, hidden_size = embedding.shape
    modules = list(_decoder_layers(model))
    head_dim = int(modules[0].self_attn.head_dim)
    layers = []
    for index, module in enumerate(modules):
        found = {path: _weight_shape(module.get_submodule(path)) for path in _PATHS}
        layers.append(layer_from_weights(index, found, hidden_size=hidden_size, head_dim=head_dim))
    return ModelShapes(hidden_size, vocab_size, head_dim, tuple(layers), tuple(range(len(layers))))


def layer_from_weights(index: int, found: dict[str, ProjectionShape], *, hidden_size: int, head_dim: int) -> LayerShape:
    """Tell a layer's widths from the shapes of its seven weights.

    Raises:
        IntegrityError: They contradict each other or the hidden size.
    """
    query, key, ffn = found["self_attn.q_proj"].rows, found["self_attn.k_proj"].rows, found["mlp.gate_proj"].rows
    for name, rows in (("q_proj", query), ("k_proj", key)):
        if rows < head_dim or rows % head_dim:
            raise IntegrityError(
                f"layer {index}: {name} has {rows} rows, no multiple of the head width {head_dim}; "
                "heads can only be pruned whole"
            )
    if ffn < 1:
        raise IntegrityError(f"layer {index}: gate_proj has no rows; an empty feed-forward part cannot be run")
    if query % key:
        raise IntegrityError(
            f"layer {index}: q_proj has {query // head_dim} heads, no multiple of the {key // head_dim} of k_proj "
            f"({query} and {key} rows of head width {head_dim})"
        )
    shape = LayerShape(query // head_dim, key // head_dim, ffn)
    for path, wanted in projection_shapes(shape, hidden_size, head_dim).items():
        if found[path] != wanted:
            raise IntegrityError(
                f"layer {index}: {path} is {found[path].rows} x {found[path].columns}, but q_proj, k_proj, gate_proj "
                f"and the hidden size {hidden_size} demand {wanted.rows} x {wanted.columns}"
            )
    return shape


def uneven_class(model_class: type[PreTrainedModel], shapes: ModelShapes) -> type[PreTrainedModel]:
    """A subclass that builds itself with the widths of `shapes`, for `from_pretrained` only.

    The caller sets `model.__class__` back to the stock class.
    """

    def build(self: PreTrainedModel, config: PreTrainedConfig) -> None:
        model_class.__init__(self, config)
        resize(self, shapes)

    return type(model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__})


def save_uneven(
    model: PreTrainedModel,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    layers_kept: tuple[int, ...] | None = None,
) -> ModelShapes:
    """Publish a model with its tokenizer and shape manifest as a folder, whole or not at all.

    Args:
        model: A stock model with layers of any width, without adapter layers.
        folder: The final name; must not exist or be empty.
        tokenizer: Saved beside it; None saves none.
        layers_kept: Indices of the layers in the model before pruning; default counts from 0.

    Returns:
        The manifest written.

    Raises:
        ModelError: The family is not supported.
        IntegrityError: The layers contradict each other.
        RunError: The folder exists and is not empty.
    """
    shapes = shapes_of(model)
    if layers_kept is not None:
        shapes = ModelShapes(shapes.hidden_size, shapes.vocab_size, shapes.head_dim, shapes.layers, layers_kept)
    publish_directory(folder, lambda stage: write_uneven(model, stage, tokenizer, shapes))
    return shapes


def write_model(model: PreTrainedModel, stage: Path, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Fill a folder of the caller's with a model; a shape manifest is added when its config cannot say the widths."""
    if model.config.model_type in UNEVEN_FAMILIES:
        shapes = shapes_of(model)
        if not is_stock(model.config, shapes):
            write_uneven(model, stage, tokenizer, shapes)
            return
    model.save_pretrained(stage)
    if tokenizer is not None:
        tokenizer.save_pretrained(stage)


def is_stock(config: PreTrainedConfig, shapes: ModelShapes) -> bool:
    """Whether the configuration alone describes the widths."""
    stock = LayerShape(config.num_attention_heads, config.num_key_value_heads, config.intermediate_size)
    return bool(shapes.layers == (stock,) * config.num_hidden_layers)


def write_uneven(
    model: PreTrainedModel, stage: Path, tokenizer: PreTrainedTokenizerBase | None, shapes: ModelShapes
) -> None:
    """Fill a folder of the caller's with the files of an uneven model."""
    model.save_pretrained(stage)
    config_for(model.config, shapes).save_pretrained(stage)
    write_text(stage / SHAPES_FILE, shapes_to_json(shapes))
    if tokenizer is not None:
        tokenizer.save_pretrained(stage)


def projection_paths() -> tuple[str, ...]:
    """Paths of the seven linear layers below a decoder layer."""
    return _PATHS


_PATHS = tuple(projection_shapes(LayerShape(1, 1, 1), 1, 1))


def _decoder_layers(model: PreTrainedModel) -> Iterator[Any]:
    yield from cast(Any, model.get_decoder()).layers


def _linear_like(linear: nn.Linear, wanted: ProjectionShape, config: PreTrainedConfig) -> nn.Linear:
    made = nn.Linear(
        wanted.columns,
        wanted.rows,
        bias=linear.bias is not None,
        device=linear.weight.device,
        dtype=linear.weight.dtype,
    )
    if made.weight.device.type != "meta":
        with torch.no_grad():
            made.weight.normal_(std=float(config.initializer_range))
            if made.bias is not None:
                made.bias.zero_()
    return made


def _weight_shape(module: Any) -> ProjectionShape:
    linear = getattr(module, "base_layer", module)
    if linear.weight.is_floating_point():
        rows, columns = linear.weight.shape
        return ProjectionShape(rows, columns)
    return ProjectionShape(linear.out_features, linear.in_features)
