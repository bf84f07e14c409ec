"""`adapter_config.json`, read by ourselves: a closed list of keys, plain values, nothing imported or fetched.

PEFT's own reader imports modules that the file may name and lets expressions in it run unbounded. Here the file is
data: keys that only concern training are passed over, keys that would change the function and that loratory does not
support are refused by name.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loratory.adapter.manifest import CONFIG_FILE
from loratory.adapter.pattern import is_plain_name
from loratory.config.method_catalogue import method_names, option_faults, options_of
from loratory.errors import AdapterError, suggest

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 65_536
TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM")

UNDERSTOOD = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "bias",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "init_lora_weights",
        "ensure_weight_tying",
        "lora_dropout",
    }
)
# Where an adapter came from, how it began, or what the layers at hand tell better: no effect on what it computes.
PASSED_OVER = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "inference_mode",
        "fan_in_fan_out",
        "layers_pattern",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    }
)
# What LoRA has beyond the keys above and what is loaded through PEFT's own configuration class.
LORA_OPTIONS = ("trainable_token_indices", "use_bdlora", "velora_config")
SETTLED_KEYS = frozenset({"peft_type", "task_type", "target_modules", "exclude_modules", "modules_to_save"})
MAX_OPTION = 1 << 31
# Initialisations that change the base; an adapter saved as they left it does not fit the original base.
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What an adapter_config.json says about a LoRA adapter, checked.

    Attributes mirror PEFT's names, with `rank` for `r`, `alpha` for `lora_alpha`, `dropout` for `lora_dropout`.
    `is_partial` tells that the file restricts its targets to some layers, so that fewer modules than the names match
    are adapted. `method` is the name of PEFT's method; for another than lora, or for LoRA with further `options`, those
    say what the adapter is, and the fields above hold what the method shares with LoRA.
    """

    rank: int
    alpha: float
    dropout: float
    target_modules: str | tuple[str, ...]
    is_partial: bool
    bias: str
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    modules_to_save: tuple[str, ...]
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    ensure_weight_tying: bool
    base_name: str | None
    task_type: str | None
    method: str = "lora"
    options: Mapping[str, Any] = field(default_factory=dict)


def read_lora_file(folder: Path) -> LoraFile:
    """Read and check the adapter_config.json in `folder`.

    Raises:
        AdapterError: It is missing, not JSON, of another method, or asks for what loratory does not support; all
            faults are listed.
    """
    found = _read_json(folder)
    place = folder / CONFIG_FILE
    method = found.get("peft_type")
    name = str(method).lower()
    if name == "full" or name not in method_names():
        raise AdapterError(f"{place}: peft_type is {method!r}; allowed are {', '.join(method_names())}")
    if name != "lora":
        return _read_method(found, name, place)
    faults: list[str] = []
    further = {key: found[key] for key in LORA_OPTIONS if found.get(key)}
    faults += [f"{fault}" for fault in _option_faults("lora", further)]
    for key in sorted(set(found) - UNDERSTOOD - PASSED_OVER - set(LORA_OPTIONS)):
        if found[key]:
            faults.append(f"{key}: {_short(found[key])} is not supported.{suggest(key, sorted(UNDERSTOOD))}")
    if found.get("task_type") not in (None, *TASK_TYPES):
        faults.append(f"task_type: {_short(found['task_type'])}; allowed are {', '.join(TASK_TYPES)}")
    init = found.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
        faults.append(
            f"init_lora_weights: {_short(init)} changed the base it was trained on; save it converted to plain LoRA "
            "(PEFT: path_initial_model_for_weight_conversion)"
        )
    rank = _number(found, "r", 8, faults)
    file = LoraFile(
        rank=int(rank) if rank == int(rank) else 0,
        alpha=_number(found, "lora_alpha", 8, faults),
        dropout=_number(found, "lora_dropout", 0, faults),
        target_modules=_targets(found, faults),
        is_partial=bool(found.get("layers_to_transform") is not None or found.get("exclude_modules")),
        bias=str(found.get("bias", "none")),
        use_rslora=_flag(found, "use_rslora", faults),
        use_dora=_flag(found, "use_dora", faults),
        lora_bias=_flag(found, "lora_bias", faults),
        modules_to_save=_names(found, "modules_to_save", faults),
        rank_pattern={name: int(rank) for name, rank in _pattern(found, "rank_pattern", faults).items()},
        alpha_pattern=_pattern(found, "alpha_pattern", faults),
        ensure_weight_tying=_flag(found, "ensure_weight_tying", faults),
        base_name=_text(found.get("base_model_name_or_path")),
        task_type=_text(found.get("task_type")),
        options=further,
    )
    for key, value in (("r", file.rank), *file.rank_pattern.items()):
        if not 1 <= value <= MAX_RANK:
            faults.append(f"{key}: rank {value}; allowed are whole numbers from 1 to {MAX_RANK}")
    if file.bias not in ("none", "all", "lora_only"):
        faults.append(f"bias: {_short(file.bias)}; allowed are none, all, lora_only")
    if faults:
        raise AdapterError("\n".join(f"{place}: {fault}" for fault in faults))
    return file


def _read_method(found: dict[str, Any], method: str, place: Path) -> LoraFile:
    """The file of another method: every key is one of the method's options or settled by us."""
    faults: list[str] = []
    known = options_of(method)
    names = set(known) | SETTLED_KEYS | PASSED_OVER | (UNDERSTOOD if method == "adalora" else set())
    for key in sorted(set(found) - names):
        if found[key]:
            faults.append(f"{key}: {_short(found[key])} is not an option of {method}.{suggest(key, sorted(known))}")
    options = {key: found[key] for key in known if key in found and found[key] != known[key]["default"]}
    faults += _option_faults(method, options)
    if found.get("task_type") not in (None, *TASK_TYPES):
        faults.append(f"task_type: {_short(found['task_type'])}; allowed are {', '.join(TASK_TYPES)}")
    file = LoraFile(
        rank=options["r"] if isinstance(options.get("r"), int) else 0,
        alpha=0.0,
        dropout=0.0,
        target_modules=_targets(found, faults),
        is_partial=True,
        bias="none",
        use_rslora=False,
        use_dora=False,
        lora_bias=False,
        modules_to_save=_names(found, "modules_to_save", faults),
        rank_pattern={},
        alpha_pattern={},
        ensure_weight_tying=False,
        base_name=_text(found.get("base_model_name_or_path")),
        task_type=_text(found.get("task_type")),
        method=method,
        options=options,
    )
    if faults:
        raise AdapterError("\n".join(f"{place}: {fault}" for fault in faults))
    return file


def _option_faults(method: str, options: Mapping[str, Any]) -> list[str]:
    """Wrong types, names that would be compiled as expressions, numbers that would fill memory, files of pickles."""
    faults = [fault.removeprefix("options.") for fault in option_faults(method, options, is_continued=True)]
    for name, value in options.items():
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_OPTION:
            faults.append(f"{name}: {value}; allowed are numbers up to {MAX_OPTION}")
        keys: list[object] = []
        if name.endswith("_pattern") and isinstance(value, Mapping):
            keys = list(value)
        elif name in ("layers_pattern", "feedforward_modules", "target_parameters") and value is not None:
            keys = list(value) if isinstance(value, list) else [value]
        faults += [f"{name}: {_short(key)} is no plain name" for key in keys if not is_plain_name(str(key))]
    return faults


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise AdapterError(f"adapter {str(folder)!r} does not exist; give the folder that holds {CONFIG_FILE}")
    if not path.is_file():
        raise AdapterError(f"{str(folder)!r} holds no {CONFIG_FILE}, so it is not an adapter folder")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{path} is larger than {MAX_CONFIG_BYTES >> 20} MiB, so it is not an adapter's config")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise AdapterError(f"{path}: not valid JSON ({fault})") from fault
    if not isinstance(found, dict):
        raise AdapterError(f"{path}: a JSON object is needed, found {type(found).__name__}")
    return found


def _targets(found: dict[str, Any], faults: list[str]) -> str | tuple[str, ...]:
    value = found.get("target_modules")
    if isinstance(value, str):
        return value
    return _names(found, "target_modules", faults)


def _names(found: dict[str, Any], key: str, faults: list[str]) -> tuple[str, ...]:
    value = found.get(key) or []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        faults.append(f"{key}: {_short(value)}; a list of names is needed")
        return ()
    return tuple(value)


def _pattern(found: dict[str, Any], key: str, faults: list[str]) -> dict[str, float]:
    value = found.get(key) or {}
    if not isinstance(value, dict) or not all(_is_number(number) for number in value.values()):
        faults.append(f"{key}: {_short(value)}; an object of name: number is needed")
        return {}
    return dict(value)


def _number(found: dict[str, Any], key: str, default: float, faults: list[str]) -> float:
    value = found.get(key, default)
    if not _is_number(value):
        faults.append(f"{key}: {_short(value)}; a finite number is needed")
        return default
    return value  # type: ignore[no-any-return]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12 and math.isfinite(value)


def _flag(found: dict[str, Any], key: str, faults: list[str]) -> bool:
    value = found.get(key)
    if value is not None and not isinstance(value, bool):
        faults.append(f"{key}: {_short(value)}; true or false is needed")
    return value is True


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
