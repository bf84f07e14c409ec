"""Open a pickled pruned model (`pruned_model.bin`): its architecture is told from the shapes of its weights.

What the file's config says of widths is not believed; LLM-Pruner leaves it as it was before pruning. The result is an
uneven model folder in the cache, named by the file's sha256, so that a file is converted once.
"""

import itertools
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from loratory.errors import IntegrityError, ModelError, RunError
from loratory.model.cache import default_cache_dir
from loratory.model.pickled import PickledModel, read_pickled
from loratory.model.pruned_config import check_rope, plain_values
from loratory.model.shapes import SHAPES_FILE, ModelShapes, shapes_to_json
from loratory.model.uneven import (
    UNEVEN_FAMILIES,
    ProjectionShape,
    config_for,
    layer_from_weights,
    projection_paths,
    resize,
)
from loratory.run.commit import publish_directory, sha256_file, write_text

# Of the conversion: a change makes new folders in the cache.
CONVERSION = 1
CLASSES = {str(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]].__name__): family for family in UNEVEN_FAMILIES}
LAYER = re.compile(r"model\.layers\.(\d{1,4})\.")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FORMATS = (torch.float32, torch.float16, torch.bfloat16)


def open_pruned(path: Path) -> Path:
    """The model folder that a pickled model's file stands for, converted into the cache when it is new.

    Raises:
        UnsafeError, IntegrityError, ModelError, ResourceError: As for `convert_pruned`.
    """
    found = path.stat()
    cache = default_cache_dir() / "pruned"
    folder = cache / f"{_sha256(str(path.absolute()), found.st_size, found.st_mtime_ns)}-{CONVERSION}"
    if not folder.is_dir():
        try:
            convert_pruned(path, folder)
        except RunError:
            # Another process published the same content meanwhile.
            if not folder.is_dir():
                raise
    return folder


def convert_pruned(path: Path, folder: Path) -> ModelShapes:
    """Write a pickled model as a folder of safetensors with its shape manifest and, when it holds one, tokenizer.

    Args:
        path: File of `torch.save({'model': model, 'tokenizer': tokenizer}, path)`, or of a model alone.
        folder: Published whole or not at all; must not exist.

    Raises:
        UnsafeError: The file is more than a model, or made to exhaust the machine.
        IntegrityError: Damaged, or its weights contradict each other; names layer and shapes.
        ModelError: It holds no whole model, or one of an unsupported family.
        ResourceError: No space or memory.
        RunError: `folder` exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with read_pickled(path, folder.parent) as found:
        try:
            shapes, config, tensors = _plan(found)
        except IntegrityError as fault:
            raise IntegrityError(f"{path}: {fault}") from fault

        def write(stage: Path) -> None:
            save_file(tensors, stage / "model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(stage)
            write_text(stage / SHAPES_FILE, shapes_to_json(shapes))
            for name in found.tokenizer_files:
                shutil.copyfile(found.folder / name, stage / name)

        publish_directory(folder, write)
    return shapes


@lru_cache(maxsize=32)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    return sha256_file(Path(path))


def _plan(found: PickledModel) -> tuple[ModelShapes, PreTrainedConfig, dict[str, torch.Tensor]]:
    name = found.class_name.rpartition(".")[2]
    if name not in CLASSES:
        raise ModelError(
            f"{found.place}: holds a {found.class_name}; supported are {', '.join(CLASSES)} without adapter layers"
        )
    tensors = {key: value for key, value in found.tensors.items() if not key.endswith("inv_freq")}
    shapes = _shapes(found, tensors)
    tied = HEAD not in tensors or found.shared[HEAD] == found.shared.get(EMBEDDING)
    if tied:
        tensors.pop(HEAD, None)
    config_class = CONFIG_MAPPING[CLASSES[name]]
    values = plain_values(found, vocab_size=shapes.vocab_size) | {"tie_word_embeddings": tied}
    values["num_hidden_layers"] = len(values.get("layer_types", range(shapes.layers_kept[-1] + 1)))
    try:
        whole = config_class.from_dict(values)
        config = config_for(whole, shapes)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as fault:
        raise IntegrityError(f"its config does not describe a {CLASSES[name]} model: {fault}") from fault
    config.dtype = tensors[EMBEDDING].dtype
    config.architectures = [name]
    _check_weights(config, shapes, tensors)
    check_rope(config, found.tensors, shapes.head_dim)
    return shapes, config, {key: value.contiguous() for key, value in tensors.items()}


def _shapes(found: PickledModel, tensors: Mapping[str, torch.Tensor]) -> ModelShapes:
    if EMBEDDING not in tensors or tensors[EMBEDDING].dim() != 2:
        raise IntegrityError(f"{EMBEDDING} is missing or no matrix")
    vocab_size, hidden_size = tensors[EMBEDDING].shape
    numbers = sorted({int(match[1]) for key in tensors if (match := LAYER.match(key))})
    if not numbers or numbers != list(range(len(numbers))):
        raise IntegrityError(f"its layers are numbered {numbers[:40]}; a gap or none at all cannot be run")
    head_dim = _head_dim(found, hidden_size)
    layers = []
    for index in numbers:
        projections = {}
        for path in projection_paths():
            weight = tensors.get(f"model.layers.{index}.{path}.weight")
            if weight is None or weight.dim() != 2:
                raise IntegrityError(f"layer {index}: {path}.weight is missing or no matrix")
            projections[path] = ProjectionShape(*weight.shape)
        layers.append(layer_from_weights(index, projections, hidden_size=hidden_size, head_dim=head_dim))
    return ModelShapes(hidden_size, vocab_size, head_dim, tuple(layers), _layers_kept(found, len(layers)))


def _head_dim(found: PickledModel, hidden_size: int) -> int:
    """Width of a head: as the attention knows it, else as its rotary frequencies, else as the config says."""
    known = {
        values["head_dim"]
        for path, values in found.attributes.items()
        if path.endswith(".self_attn") and isinstance(values.get("head_dim"), int)
    }
    if not known:
        known = {2 * value.numel() for key, value in found.tensors.items() if key.endswith("inv_freq")}
    if not known:
        heads = found.config.get("num_attention_heads")
        known = {found.config.get("head_dim") or (hidden_size // heads if isinstance(heads, int) and heads > 0 else 0)}
    if len(known) != 1 or not all(isinstance(value, int) and value > 0 for value in known):
        raise IntegrityError(f"the width of its heads is unclear: {sorted(map(str, known))}")
    return int(next(iter(known)))


def _layers_kept(found: PickledModel, count: int) -> tuple[int, ...]:
    """Original layer numbers, as far as the attention modules still carry them."""
    kept = [found.attributes.get(f"model.layers.{index}.self_attn", {}).get("layer_idx") for index in range(count)]
    numbers = [number for number in kept if isinstance(number, int) and 0 <= number < 1 << 16]
    if len(numbers) == count and all(low < high for low, high in itertools.pairwise(numbers)):
        return tuple(numbers)
    return tuple(range(count))


def _check_weights(config: PreTrainedConfig, shapes: ModelShapes, tensors: Mapping[str, torch.Tensor]) -> None:
    """Every weight that the architecture has, of its shape and finite, and none besides."""
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        resize(model, shapes)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop(HEAD, None)
    faults = [f"{key} is missing" for key in wanted if key not in tensors]
    faults += [f"{key} has no place in a {config.model_type} model" for key in tensors if key not in wanted]
    for key, tensor in tensors.items():
        if key in wanted and tuple(tensor.shape) != wanted[key]:
            faults.append(f"{key} has shape {tuple(tensor.shape)}, but the architecture demands {wanted[key]}")
        elif tensor.dtype not in FORMATS:
            faults.append(f"{key} is {tensor.dtype}; allowed are float32, float16 and bfloat16")
        elif not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            faults.append(f"{key} {tuple(tensor.shape)} holds {bad} values that are not finite")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise IntegrityError("; ".join(faults[:5]) + more)
