"""A model of which only the layer at work is in memory: placeholders of the right shapes, filled from the files.

The modules are the stock ones, so an adapter of any method can be put on a skeleton, and a forward pass gives the
model's own logits; each layer's weights are read when it is called and dropped after it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedModel

from loratory.adapter.base_form import BaseForm, ReadWeight
from loratory.adapter.shards import ShardReader
from loratory.config import ModelConfig
from loratory.errors import ModelError
from loratory.model.identity import weight_files
from loratory.model.shapes import read_shapes
from loratory.model.source import first_line, locate_model, read_config_dict, snapshot_folder
from loratory.model.task import MAPPINGS, choose_task
from loratory.model.uneven import uneven_class

LARGE_NUMBERS = 16 << 20
BLOCK_NUMBERS = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A model without weights, and where they are.

    Attributes:
        model: The stock model in eval mode; weights of two and more dimensions are placeholders without memory.
        folder: The model's folder.
        source: The model as a user names it.
        reader: Its files.
        names: Full parameter or buffer name -> name of the stored tensor.
        parameters: id of a parameter -> its full name (of shared ones the first).
        ties: Full name -> all full names of the same parameter, for shared ones.
        generation: The folder's generation config, when it has one.
    """

    model: PreTrainedModel
    folder: Path
    source: str
    reader: ShardReader
    names: dict[str, str]
    parameters: dict[int, str]
    ties: dict[str, tuple[str, ...]]
    generation: GenerationConfig | None

    def read(self, name: str) -> torch.Tensor:
        """A parameter's value from the files, float32."""
        return self.reader.float32(self.names[name])

    @property
    def original(self) -> BaseForm:
        """The weights as the files hold them."""
        return BaseForm(self.read, lambda name, rows: self.reader.float32(self.names[name], rows))


def open_skeleton(section: ModelConfig) -> Skeleton | str:
    """The skeleton of a base model; or why the model cannot be read tensor by tensor.

    Raises:
        ModelError: The model is missing or its files contradict its config.
    """
    source = locate_model(section)
    if source.gguf_file is not None:
        return "a GGUF file is dequantised as a whole"
    found = read_config_dict(source)
    if found["model_type"] not in CONFIG_MAPPING:
        return "its code comes from its own repository"
    if found.get("quantization_config"):
        return "its weights are stored quantised"
    folder = snapshot_folder(source)
    files = weight_files(folder)
    if not files or any(file.suffix != ".safetensors" for file in files):
        return "its weights are not safetensors"
    found.pop("auto_map", None)
    try:
        config = CONFIG_MAPPING[found["model_type"]].from_dict(found)
        task = choose_task(section.task, type(config), None, label=source.label)
        model = _empty_model(MAPPINGS[task][type(config)], config, folder)
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError) as fault:
        raise ModelError(f"{source.label}: its config does not describe a model: {first_line(fault)}") from fault
    reader = ShardReader(files)
    names = _stored_names(model, reader)
    if names is None:
        return "its files name the weights otherwise than the model does"
    _check_shapes(model, reader, names, source.label)
    parameters, ties = _place(model)
    for buffer, stored in names.items():
        if buffer in dict(model.named_buffers()):
            model.get_buffer(buffer).copy_(reader.float32(stored))
    generation = None
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(str(folder))
    return Skeleton(model, folder, source.label, reader, names, parameters, ties, generation)


@contextmanager
def streaming(model: nn.Module, parameters: Mapping[int, str], form: BaseForm) -> Iterator[None]:
    """Within: each layer reads its weights when it is called and drops them after.

    Args:
        model: A skeleton's model, adapted or not.
        parameters: The skeleton's.
        form: Gives the weights; those of large plain layers by rows, so that they are never whole in memory.
    """
    with ExitStack() as stack:
        for unit, inside in units(model, parameters):
            if _is_large(unit, inside) and form.whole.isdisjoint(name for name, _ in inside):
                unit.forward = _by_rows(unit, dict(inside), form)
                stack.callback(unit.__dict__.pop, "forward")
                continue
            filled = _Filled(inside, form.read)
            stack.callback(unit.register_forward_pre_hook(filled.fill).remove)
            stack.callback(unit.register_forward_hook(filled.empty, always_call=True).remove)
        yield


def units(
    model: nn.Module, parameters: Mapping[int, str]
) -> Iterator[tuple[nn.Module, list[tuple[str, nn.Parameter]]]]:
    """The outermost modules that use weights of their own: adapter layers, and layers without any; with the base's
    parameters below each, by full name."""
    covered: set[int] = set()
    for module in model.modules():
        if id(module) in covered:
            continue
        own = any(id(p) in parameters for p in module._parameters.values())
        if own or isinstance(module, BaseTunerLayer):
            inside = [(parameters[id(p)], p) for p in module.parameters() if id(p) in parameters]
            covered |= {id(child) for child in module.modules()}
            yield module, inside


@contextmanager
def filled(inside: Sequence[tuple[str, nn.Parameter]], read: ReadWeight) -> Iterator[None]:
    """Within: the parameters hold their values."""
    state = _Filled(inside, read)
    state.fill()
    try:
        yield
    finally:
        state.empty()


def _is_large(unit: nn.Module, inside: Sequence[tuple[str, nn.Parameter]]) -> bool:
    return type(unit) in (nn.Linear, nn.Embedding) and inside[0][1].numel() > LARGE_NUMBERS


def _by_rows(
    unit: nn.Module, inside: Mapping[str, nn.Parameter], form: BaseForm
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the layer computes, from a block of rows at a time, or from the rows that are looked up."""
    name = next(iter(inside))
    bias = next((form.read(key) for key in list(inside)[1:]), None)
    num_rows, width = inside[name].shape

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        wanted, places = torch.unique(ids, return_inverse=True)
        found = torch.cat([form.read_rows(name, slice(row, row + 1)) for row in wanted.tolist()])
        return found[places]

    def multiply(hidden: torch.Tensor) -> torch.Tensor:
        result = hidden.new_empty(*hidden.shape[:-1], num_rows)
        for rows, weight in form.by_rows(name, num_rows, step=max(1, BLOCK_NUMBERS // width)):
            result[..., rows] = hidden @ weight.T
        return result if bias is None else result + bias

    return look_up if isinstance(unit, nn.Embedding) else multiply


class _Filled:
    def __init__(self, inside: Sequence[tuple[str, nn.Parameter]], read: ReadWeight) -> None:
        self.inside, self.read = inside, read
        self.placeholders = [parameter.data for _, parameter in inside]

    def fill(self, *_: Any) -> None:
        for name, parameter in self.inside:
            parameter.data = self.read(name)

    def empty(self, *_: Any) -> None:
        for (_name, parameter), placeholder in zip(self.inside, self.placeholders, strict=True):
            parameter.data = placeholder


def _empty_model(model_class: Any, config: Any, folder: Path) -> PreTrainedModel:
    shapes = read_shapes(folder)
    building = model_class if shapes is None else uneven_class(model_class, shapes)
    attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    # Buffers such as rotary frequencies are in no file: they are made for real.
    with init_empty_weights(include_buffers=False):
        model = building._from_config(config, dtype=torch.float32, attn_implementation=attention)
    model.__class__ = model_class
    model.tie_weights()
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def _stored_names(model: PreTrainedModel, reader: ShardReader) -> dict[str, str] | None:
    """Where each weight of the model is; None when one cannot be found."""
    prefix = f"{model.base_model_prefix}."
    found: dict[str, str] = {}
    by_parameter: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        candidates = (name, name.removeprefix(prefix), f"{prefix}{name}")
        stored = next((key for key in candidates if key in reader.tensors), None)
        if stored is not None:
            found[name] = stored
            by_parameter.setdefault(id(tensor), stored)
    for name, tensor in state.items():
        if name not in found:
            if id(tensor) not in by_parameter:
                return None
            found[name] = by_parameter[id(tensor)]
    return found


def _check_shapes(model: PreTrainedModel, reader: ShardReader, names: Mapping[str, str], label: str) -> None:
    faults = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        stored = reader.tensors[names[name]]
        if stored.shape != tuple(tensor.shape):
            faults.append(f"{name} is {stored.shape}, its config describes {tuple(tensor.shape)}")
        elif not stored.is_float and tensor.is_floating_point():
            faults.append(f"{name} is stored as {stored.code}")
    if faults:
        raise ModelError(f"{label} does not fill the model of its config.json: {'; '.join(faults[:3])}")


def _place(model: PreTrainedModel) -> tuple[dict[int, str], dict[str, tuple[str, ...]]]:
    """Replace the weights by placeholders; their names, and which are shared."""
    # Keyed by the old parameter, which is kept with the new one so that no id is given twice.
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    names: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in made:
                zeros = torch.zeros(parameter.shape if parameter.ndim < 2 else ())
                made[id(parameter)] = parameter, nn.Parameter(zeros.expand(parameter.shape), requires_grad=False)
            _, new = made[id(parameter)]
            names.setdefault(id(new), []).append(f"{prefix}.{key}" if prefix else key)
            module._parameters[key] = new
    ties = {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}
    return {key: group[0] for key, group in names.items()}, ties
