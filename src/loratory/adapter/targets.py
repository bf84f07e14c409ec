"""Which modules of a model are adapted: names, a regular expression, `all`, or the family's usual choice.

Whatever the user writes is resolved to full module names here, once; PEFT then gets literal names only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loratory.adapter.pattern import ends_with_any, is_plain_name, match_names
from loratory.errors import AdapterError, suggest
from loratory.model.task import head_modules

# The usual choice by model type: PEFT's own table for LoRA, over which the list below wins.
DEFAULT_TARGETS: Mapping[str, Sequence[str]] = MappingProxyType(
    {name: tuple(leaves) for name, leaves in PEFT_TARGETS.items() if not isinstance(leaves, str)}
    | {
        "t5": ("q", "v"),
        "mt5": ("q", "v"),
        "bart": ("q_proj", "v_proj"),
        "gpt2": ("c_attn",),
        "bloom": ("query_key_value",),
        "blip-2": ("q", "v", "q_proj", "v_proj"),
        "opt": ("q_proj", "v_proj"),
        "gptj": ("q_proj", "v_proj"),
        "gpt_neo": ("q_proj", "v_proj"),
        "gpt_neox": ("query_key_value",),
        "llama": ("q_proj", "v_proj"),
        "chatglm": ("query_key_value",),
        "baichuan": ("W_pack",),
        "bert": ("query", "value"),
        "roberta": ("query", "value"),
        "xlm-roberta": ("query", "value"),
        "electra": ("query", "value"),
        "layoutlm": ("query", "value"),
        "deberta-v2": ("query_proj", "value_proj"),
        "deberta": ("in_proj",),
        "gpt_bigcode": ("c_attn",),
        "mpt": ("Wqkv",),
        "falcon": ("query_key_value",),
        "codegen": ("qkv_proj",),
        "stablelm": ("q_proj", "v_proj"),
        "mistral": ("q_proj", "v_proj"),
        "mixtral": ("q_proj", "v_proj"),
        "phi": ("q_proj", "v_proj"),
        "phi3": ("qkv_proj",),
        "gemma": ("q_proj", "v_proj"),
        "gemma2": ("q_proj", "v_proj"),
        "gemma3_text": ("q_proj", "v_proj"),
        "qwen2": ("q_proj", "v_proj"),
        "qwen3": ("q_proj", "v_proj"),
        "smollm3": ("q_proj", "v_proj"),
    }
)
ATTENTION = re.compile("attn|attention", re.IGNORECASE)
QUERY_AND_VALUE = frozenset(
    {"q", "v", "q_proj", "v_proj", "query", "value", "query_proj", "value_proj", "q_lin", "v_lin"}
    | {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack", "in_proj"}
)
KEY = "adapter.targets"


@dataclass(frozen=True, slots=True)
class Targets:
    """The modules to adapt.

    Attributes:
        modules: Full module names, in the model's order.
        names: The shortest list of names that selects exactly these modules: leaf names where every module of that
            name is selected, full names elsewhere. This is what stands in adapter_config.json.
    """

    modules: tuple[str, ...]
    names: tuple[str, ...]


def resolve_targets(
    model: PreTrainedModel,
    targets: str | Sequence[str],
    exclude: Sequence[str] = (),
    *,
    among: Mapping[str, nn.Module] | None = None,
) -> Targets:
    """Find the modules that `targets` means in this model.

    Args:
        model: The base model, not yet adapted.
        targets: "all" (every linear layer except the output head; "complete" means the same), "standard" (the linear
            layers of attention), "minimal" (queries and values), "default" (by model type), a list of names (a
            name selects every module whose full name is it or ends with "." and it), or one regular expression
            over full module names. A comma-separated string of plain names counts as a list.
        exclude: Names, matched like those of `targets`, that are taken out again.
        among: Full name -> module of what can be adapted, where that is not what LoRA can adapt.

    Raises:
        AdapterError: A name or expression that matches nothing, or only modules that cannot be adapted.
    """
    adaptable = adaptable_modules(model) if among is None else dict(among)
    head = _head_names(model)
    if targets in ("all", "complete"):
        chosen = {name for name, module in adaptable.items() if name not in head and _is_linear(module)}
        if not chosen:
            raise AdapterError(f"{KEY}: {targets!r} finds no linear layer in {_kind(model)}")
    elif targets in ("standard", "minimal"):
        chosen = _attention_layers(model, adaptable, is_minimal=targets == "minimal")
    elif isinstance(targets, str) and targets != "default" and not _is_name_list(targets):
        chosen = set(match_names(targets, list(adaptable), key=KEY))
        if not chosen:
            raise AdapterError(
                f"{KEY}: the expression {targets!r} matches no module of {_kind(model)}; "
                f"full names look like {', '.join(list(adaptable)[:3])}"
            )
    else:
        chosen = _match_list(model, adaptable, _as_names(model, targets))
    for name in exclude:
        gone = {full for full in adaptable if ends_with_any(full, [name])}
        if not gone:
            raise AdapterError(_no_match("adapter.exclude", name, model, adaptable))
        chosen -= gone
    if not chosen:
        raise AdapterError(f"{KEY}: adapter.exclude takes out every module that adapter.targets selects")
    modules = tuple(name for name in adaptable if name in chosen)
    return Targets(modules=modules, names=shortest_names(model, modules))


def adaptable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Full name -> module of every layer that LoRA can adapt: Linear (also quantised), Conv1D, Embedding."""
    return {name: module for name, module in model.named_modules() if _is_linear(module) or _is_embedding(module)}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _is_embedding(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def _attention_layers(model: PreTrainedModel, adaptable: Mapping[str, nn.Module], *, is_minimal: bool) -> set[str]:
    """The linear layers inside attention modules, or only those of queries and values (or the fused one)."""
    word = "minimal" if is_minimal else "standard"
    chosen = {
        name
        for name, module in adaptable.items()
        if _is_linear(module) and any(ATTENTION.search(part) for part in name.split(".")[:-1])
    }
    if is_minimal:
        chosen = {name for name in chosen if name.rsplit(".", 1)[-1] in QUERY_AND_VALUE}
    if not chosen:
        raise AdapterError(f"{KEY}: {word!r} finds no such layer in {_kind(model)}; use 'all' or a list of names")
    return chosen


def _head_names(model: PreTrainedModel) -> set[str]:
    head = model.get_output_embeddings()
    classes = tuple(f"{name}." for name in head_modules(model))
    return {
        name
        for name, module in model.named_modules()
        if (head is not None and module is head) or f"{name}.".startswith(classes or ("\0",))
    }


def _is_name_list(targets: str) -> bool:
    return all(is_plain_name(part.strip()) for part in targets.split(","))


def _as_names(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    if targets == "default":
        model_type = str(getattr(model.config, "model_type", ""))
        if model_type not in DEFAULT_TARGETS:
            raise AdapterError(
                f"{KEY}: no default targets are known for model type {model_type!r}; "
                f"use 'all' or a list of names.{suggest(model_type, list(DEFAULT_TARGETS))}"
            )
        return list(DEFAULT_TARGETS[model_type])
    if isinstance(targets, str):
        return [part.strip() for part in targets.split(",")]
    if not targets:
        raise AdapterError(f"{KEY}: the list is empty, so nothing would be trained; use 'all' or name some layers")
    return list(targets)


def _match_list(model: PreTrainedModel, adaptable: dict[str, nn.Module], names: Sequence[str]) -> set[str]:
    faults: list[str] = []
    chosen: set[str] = set()
    for name in names:
        found = {full for full in adaptable if ends_with_any(full, [name])}
        if not found:
            faults.append(_no_match(KEY, name, model, adaptable))
        chosen |= found
    if faults:
        raise AdapterError("\n".join(faults))
    return chosen


def _no_match(key: str, name: str, model: PreTrainedModel, adaptable: dict[str, nn.Module]) -> str:
    other = [full for full, _ in model.named_modules() if ends_with_any(full, [name])]
    if other:
        kind = type(model.get_submodule(other[0])).__name__
        return f"{key}: {name!r} is a {kind} in {_kind(model)}; LoRA adapts Linear, Conv1D and Embedding layers"
    leaves = list(dict.fromkeys(full.rsplit(".", 1)[-1] for full in adaptable))
    return (
        f"{key}: {name!r} matches no linear module of {_kind(model)}; candidates: {', '.join(leaves)}."
        f"{suggest(name, leaves)}"
    )


def shortest_names(model: nn.Module, modules: Sequence[str]) -> tuple[str, ...]:
    """Names that match exactly `modules`: the last part where all modules of that name are meant, else the full one."""
    chosen = set(modules)
    every = [name for name, _ in model.named_modules() if name]
    names: dict[str, None] = {}
    for full in modules:
        leaf = full.rsplit(".", 1)[-1]
        same_leaf = {other for other in every if ends_with_any(other, [leaf])}
        names[leaf if same_leaf <= chosen else full] = None
    return tuple(names)


def _kind(model: PreTrainedModel) -> str:
    return f"{type(model).__name__}"
