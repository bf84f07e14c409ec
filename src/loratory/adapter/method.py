"""A section with any method of PEFT, as that method's configuration for one model.

LoRA itself is in `loratory.adapter.lora`; its fields are ours. Of the others PEFT's names and defaults hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS
from torch import nn
from transformers import PreTrainedModel

from loratory.adapter.lora import TASK_TYPES, are_transposed, modules_named, modules_to_save
from loratory.adapter.pattern import ends_with_any
from loratory.adapter.peft_options import build_config, has_field, is_prompt_learning
from loratory.adapter.targets import KEY, Targets, resolve_targets, shortest_names
from loratory.errors import AdapterError
from loratory.model.task import task_of

# PEFT wants the number of steps when AdaLoRA is attached; the engine tells it later (see `loratory.adapter.stepping`).
UNKNOWN_STEPS = 1 << 30
PICKLE_OPTIONS = {"corda_config": ("cache_file", "covariance_file")}
FIXED_TARGETS = ("all", "default", "minimal", "standard", "complete")


def method_targets(
    model: PreTrainedModel, method: str, targets: str | Sequence[str], exclude: Sequence[str] = ()
) -> Targets:
    """The modules that a method adapts; none for methods that train virtual tokens.

    Norms for LN tuning, embeddings for trainable tokens, linear layers with a bias for BEFT; the words all, default,
    minimal, standard and complete all mean every one of these. IA3's default is PEFT's list for the family.

    Raises:
        AdapterError: Nothing matches.
    """
    if is_prompt_learning(method) or not has_field(method, "target_modules") or method == "adaption_prompt":
        return Targets((), ())
    model_type = str(getattr(model.config, "model_type", ""))
    if method == "ia3" and targets == "default" and model_type in IA3_TARGETS:
        targets = list(IA3_TARGETS[model_type])
    if method not in ("ln_tuning", "trainable_tokens", "beft"):
        return resolve_targets(model, targets, exclude)
    fit = _special_modules(model, method)
    if not fit:
        raise AdapterError(f"{KEY}: {type(model).__name__} has no layer that {method} could adapt; try lora")
    if targets in FIXED_TARGETS:
        chosen = fit
    else:
        chosen = list(resolve_targets(model, targets, among={name: model.get_submodule(name) for name in fit}).modules)
    chosen = [name for name in chosen if not ends_with_any(name, exclude)]
    if not chosen:
        raise AdapterError(f"{KEY}: adapter.exclude takes out every module that adapter.targets selects")
    return Targets(tuple(chosen), shortest_names(model, chosen))


def method_config(
    model: PreTrainedModel,
    method: str,
    *,
    names: Sequence[str],
    options: Mapping[str, Any],
    to_save: Sequence[str] = (),
    inference_mode: bool = False,
    has_task: bool = True,
) -> PeftConfig:
    """Build the PEFT configuration of a method.

    Args:
        model: The base.
        method: Its name; checked before.
        names: Literal names of the target modules.
        options: Under PEFT's names; checked before.
        to_save: Modules trained in full.
        inference_mode: Whether the adapter's weights are frozen.
        has_task: Name the model's task.

    Raises:
        AdapterError: PEFT refuses the options.
    """
    refuse_pickles(options)
    values = dict(options)
    task = TASK_TYPES[task_of(model)] if has_task else None
    if names:
        values["target_modules"] = list(names)
    if has_field(method, "fan_in_fan_out"):
        values["fan_in_fan_out"] = are_transposed(modules_named(model, names))
    kept = modules_to_save(model, to_save)
    if kept and not has_field(method, "modules_to_save"):
        raise AdapterError(f"adapter.modules_to_save: {method} trains no whole modules beside itself; use lora")
    if kept:
        values["modules_to_save"] = kept
    if method == "ia3" and values.get("feedforward_modules") is None:
        usual = FEEDFORWARD.get(str(getattr(model.config, "model_type", "")), [])
        values["feedforward_modules"] = [name for name in names if name.rsplit(".", 1)[-1] in usual or name in usual]
    if method == "adalora":
        values.setdefault("total_step", UNKNOWN_STEPS)
        if values["total_step"] is None:
            values["total_step"] = UNKNOWN_STEPS
        _check_adalora(values)
    if method == "oft":
        _check_oft(model, names, options)
    return build_config(method, {**values, "task_type": task, "inference_mode": inference_mode})


def refuse_pickles(options: Mapping[str, Any]) -> None:
    """Options that name files which PEFT would read as pickles are refused."""
    for name, inner in PICKLE_OPTIONS.items():
        value = options.get(name)
        named = [key for key in inner if isinstance(value, Mapping) and value.get(key)]
        if named:
            raise AdapterError(f"adapter.options.{name}.{named[0]}: the file would be read as a pickle; leave it out")


def _special_modules(model: PreTrainedModel, method: str) -> list[str]:
    found = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_norm = "norm" in type(module).__name__.lower() and isinstance(weight, nn.Parameter)
        is_bias = isinstance(module, nn.Linear) and module.bias is not None
        if {"ln_tuning": is_norm, "trainable_tokens": module is model.get_input_embeddings(), "beft": is_bias}[method]:
            found.append(name)
    return found


def _check_adalora(values: Mapping[str, Any]) -> None:
    target, first = values.get("target_r", 8), values.get("init_r", 12)
    if not 1 <= target < first:
        raise AdapterError(
            f"adapter.options: adalora shrinks from init_r to target_r; got init_r {first} and target_r {target}. "
            "init_r must be larger (1.5 times target_r is usual)"
        )


def _check_oft(model: PreTrainedModel, names: Sequence[str], options: Mapping[str, Any]) -> None:
    """A block that was asked for and does not divide a layer: PEFT would take another one for that layer."""
    for option in ("oft_block_size", "r"):
        size = options.get(option)
        if not size:
            continue
        widths = {
            full: module.in_features
            for full, module in model.named_modules()
            if ends_with_any(full, names) and isinstance(module, nn.Linear) and module.in_features % size
        }
        if widths:
            full, width = next(iter(widths.items()))
            common = math.gcd(*(m.in_features for m in model.modules() if isinstance(m, nn.Linear)))
            raise AdapterError(
                f"adapter.options: {option} {size} does not divide the {width} inputs of {full}"
                f"{f' and of {len(widths) - 1} more layers' if len(widths) > 1 else ''}; "
                f"numbers that divide the inputs of every linear layer are those that divide {common}"
            )
