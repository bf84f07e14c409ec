"""What options PEFT's methods take, read off its configuration classes: names, types and defaults.

The answer is kept in `config/adapter_methods.json`, so that a configuration is checked without importing PEFT; a test
compares the file with the installed version.
"""

import dataclasses
import enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import peft
from peft import PeftConfig, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from loratory.errors import AdapterError

# Fields of a configuration class that other fields of ours, the model or PEFT itself settle.
SETTLED = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "target_modules",
        "exclude_modules",
        "modules_to_save",
        "fan_in_fan_out",
        "megatron_config",
        "megatron_core",
        "runtime_config",
        "ensure_weight_tying",
    }
)
# Fields for which LoRA has a field of ours.
LORA_FIELDS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "bias": "bias",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "init_lora_weights": "init",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
# None by default, and filled in by PEFT from the model.
INFERRED = frozenset({"token_dim", "num_layers", "num_attention_heads", "encoder_hidden_size", "hidden_size"})
_SIMPLE = {bool: "bool", int: "int", float: "float", str: "str", NoneType: "null", list: "list", dict: "dict"}


@cache
def config_class(method: str) -> type[PeftConfig]:
    """PEFT's configuration class of a method, by our name of it (PEFT's in lower case)."""
    found: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.upper())]
    return found


def is_prompt_learning(method: str) -> bool:
    """Whether the method trains virtual tokens or prefixes and no layer."""
    return issubclass(config_class(method), PromptLearningConfig)


def has_field(method: str, name: str) -> bool:
    """Whether the method's configuration class has a field of this name."""
    return any(each.name == name for each in dataclasses.fields(config_class(method)))


def describe_methods() -> dict[str, Any]:
    """The content of `config/adapter_methods.json`: every registered method, its options, nested objects."""
    objects: dict[str, Any] = {}
    methods = {}
    for kind, cls in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda item: str(item[0].value)):
        name = kind.value.lower()
        left_out = SETTLED | (frozenset(LORA_FIELDS) if name == "lora" else frozenset())
        if name == "adalora":
            left_out |= {"r", "rank_pattern", "alpha_pattern", "init_lora_weights", "use_dora", "use_rslora"}
        methods[name] = {
            "class": cls.__name__,
            "is_prompt_learning": issubclass(cls, PromptLearningConfig),
            "options": _options(cls, left_out, objects),
        }
    return {"peft": peft.__version__, "methods": methods, "objects": dict(sorted(objects.items()))}


def build_config(method: str, values: dict[str, Any]) -> PeftConfig:
    """An instance of the method's configuration class; nested objects may be given as mappings.

    Raises:
        AdapterError: What PEFT says about values that contradict each other.
    """
    cls = config_class(method)
    hints = get_type_hints(cls)
    try:
        return cls(**{name: _nested(hints[name], value) for name, value in values.items()})
    except (ValueError, TypeError, NotImplementedError) as fault:
        raise AdapterError(f"adapter.options: {method} refuses these: {fault}") from fault


def _nested(annotation: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for kind in _members(annotation):
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return kind(**value)
    return value


def _options(cls: type, left_out: frozenset[str], objects: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    options = {}
    for each in dataclasses.fields(cls):
        if each.name in left_out or not each.init or each.name.startswith("_"):
            continue
        kinds = sorted({_kind(kind, objects) for kind in _members(hints[each.name])})  # typing has no stable order
        default = _default(each)
        is_inferred = each.name in INFERRED or (each.name == "num_virtual_tokens" and "cpt_token_ids" in hints)
        is_required = default is None and "null" not in kinds and not is_inferred
        if default is None and "null" not in kinds:
            kinds.append("null")
        options[each.name] = {"kinds": kinds, "default": default} | ({"required": True} if is_required else {})
    return options


def _default(each: Any) -> Any:
    value = each.default
    if value is dataclasses.MISSING:
        value = None if each.default_factory is dataclasses.MISSING else each.default_factory()
    if isinstance(value, enum.Enum):
        value = value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return sorted(value) if isinstance(value, set) else value


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Union or origin is UnionType:
        return [inner for each in get_args(annotation) for inner in _members(each)]
    if origin is Literal:
        return [f"'{value}'" for value in get_args(annotation)]
    return [annotation]


def _kind(kind: Any, objects: dict[str, Any]) -> str:
    if isinstance(kind, str):
        return kind
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "str"
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        objects[kind.__name__] = _options(kind, frozenset(), objects)
        return f"object:{kind.__name__}"
    if get_origin(kind) is list and get_args(kind)[0] in (str, int):
        return f"list[{get_args(kind)[0].__name__}]"
    return {list: "list", dict: "dict"}.get(get_origin(kind), "any")
