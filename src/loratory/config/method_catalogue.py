"""The adapter methods there are, and the options of each: a generated file, read without importing any of them."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from loratory.errors import suggest

FILE_NAME = "adapter_methods.json"
OWN_METHODS = ("lora", "full")
# Methods of PEFT that a run here cannot be faithful to, and why; the nearest that can is named.
REFUSED = {
    "xlora": "it mixes adapters that were trained before; train one with lora",
    "shadow": "its own forward pass adds a loss that is not the run's; take lora",
    "poly": "every row needs the number of its task; take lora, one adapter for each task",
    "multitask_prompt_tuning": "every row needs the number of its task; take prompt_tuning",
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "null": "null",
    "list": "a list",
    "list[str]": "a list of text",
    "list[int]": "a list of whole numbers",
    "dict": "a mapping",
}
# What users look for under LoRA's names in other methods.
_LIKE = {"rank": ("r", "init_r"), "alpha": ("alpha", "lora_alpha"), "dropout": ("lora_dropout", "module_dropout")}


@cache
def catalogue() -> Mapping[str, Any]:
    """The whole file: `methods` (name -> class, options), `objects` (nested ones), `peft` (its version)."""
    text = (files("loratory.config") / FILE_NAME).read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def method_names() -> tuple[str, ...]:
    """Every allowed `adapter.method`."""
    return (*OWN_METHODS, *(name for name in catalogue()["methods"] if name not in {*OWN_METHODS, *REFUSED}))


def method_fault(method: str) -> str | None:
    """What is wrong with a method's name, or None."""
    if method in REFUSED:
        return f"{method} cannot be trained here: {REFUSED[method]}"
    names = method_names()
    if method in names:
        return None
    return f"{method!r} is no method.{suggest(method, names)} Allowed: {', '.join(names)}"


def options_of(method: str) -> Mapping[str, Any]:
    """Option -> `kinds`, `default` and perhaps `required`; none for full fine-tuning."""
    found: Mapping[str, Any] = catalogue()["methods"].get(method, {}).get("options", {})
    return found


def option_faults(method: str, options: Mapping[str, Any], *, is_continued: bool = False) -> list[str]:
    """What is wrong with `adapter.options`, one sentence each.

    Args:
        method: An allowed name.
        options: The section's options.
        is_continued: The adapter exists already and brings the options that are required.
    """
    known = options_of(method)
    if not known:
        return [f"options: {method} has none"] if options else []
    faults = _faults("options", method, known, options)
    for name, option in known.items():
        if option.get("required") and options.get(name) is None and not is_continued:
            faults.append(f"options.{name}: {method} needs it; give {describe_kinds(option['kinds'])}")
    return faults


def foreign_field_fault(method: str, field: str) -> str:
    """Why a field of LoRA's says nothing about another method, and what to write instead."""
    known = options_of(method)
    own = [name for name in known if name in _LIKE.get(field, (field,))]
    own = own or [name for name in known if name.endswith(f"_{field}")]
    hint = f"; write adapter.options.{own[0]} (default {known[own[0]]['default']!r})" if own else ""
    return f"{field}: this is a field of LoRA, and the method is {method}{hint}"


def describe_kinds(kinds: list[str]) -> str:
    """The allowed types and words of an option, for people."""
    words = [kind.strip("'") for kind in kinds if kind.startswith("'")]
    parts = [f"one of {', '.join(words)}"] if words else []
    parts += [_WORDS.get(kind, "a mapping") for kind in kinds if not kind.startswith("'") and kind != "null"]
    return " or ".join(dict.fromkeys(parts))


def _faults(place: str, owner: str, known: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    faults = []
    for name, value in values.items():
        if name not in known:
            hint = suggest(name, list(known)) or f" Allowed: {', '.join(known)}"
            faults.append(f"{place}.{name}: {owner} has no such option.{hint}")
            continue
        kinds = known[name]["kinds"]
        nested = [kind.partition(":")[2] for kind in kinds if kind.startswith("object:")]
        if nested and isinstance(value, dict):
            faults += _faults(f"{place}.{name}", nested[0], catalogue()["objects"][nested[0]], value)
        elif not any(_fits(kind, value) for kind in kinds):
            faults.append(f"{place}.{name}: should be {describe_kinds(kinds)}; got {value!r}")
    return faults


def _fits(kind: str, value: object) -> bool:
    if kind.startswith("'"):
        pattern = kind.strip("'")
        return isinstance(value, str) and (
            value == pattern or ("[" in pattern and value.startswith(pattern.split("[")[0]))
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return is_number and isinstance(value, int)
        case "float":
            return is_number
        case "str":
            return isinstance(value, str)
        case "null":
            return value is None
        case "list[str]":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case "list[int]":
            return isinstance(value, list) and all(_fits("int", each) for each in value)
        case "list":
            return isinstance(value, list)
        case "dict":
            return isinstance(value, dict)
    return kind == "any"
