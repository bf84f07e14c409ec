"""PEFT's adapter JSON: `adapter_config.json` of a saved adapter, or one of the ready files for `peft.LoraConfig`."""

from collections.abc import Mapping
from typing import Any

from loratory.interop.draft import Draft, Tool
from loratory.interop.rules import (
    Table,
    ignored,
    is_off,
    known_elsewhere,
    not_honoured,
    only,
    same_name,
    targets_of,
    to,
)

ADAPTER_MARK = "peft_type"

_NO_LIKE = "there is nothing like it here"
_INITS = {
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
    "olora": "olora",
    "pissa": "pissa",
    "eva": "eva",
    "corda": "corda",
    "loftq": "loftq",
    "lora_ga": "lora_ga",
}


def read_init(draft: Draft, key: str, value: Any) -> None:
    """PEFT's `init_lora_weights`."""
    if value is True:
        draft.put("adapter.init", "default", origin=key)
    elif value is False:
        draft.report("not honoured", key, "random A and B change the base from the start; B starts at zero here")
    elif str(value) in _INITS or str(value).startswith("pissa_niter_"):
        draft.put("adapter.init", _INITS.get(str(value), str(value)), origin=key)
    else:
        draft.report("not honoured", key, f"there is no initialisation {value!r} here")


def _read_revision(draft: Draft, key: str, value: Any) -> None:
    if value:
        draft.put("model.revision", value, origin=key)


def _read_base(draft: Draft, key: str, value: Any) -> None:
    draft.put("model.model_name_or_path", value, origin=key)


def _read_method(draft: Draft, key: str, value: Any) -> None:
    draft.put("adapter.method", str(value).lower(), origin=key)


def _read_task(draft: Draft, key: str, value: Any) -> None:
    if str(value).upper() != "CAUSAL_LM":
        draft.report("not honoured", key, "models that generate text are trained (CAUSAL_LM)")


def _read_patterns(key: str, convert: type) -> Any:
    def read(draft: Draft, name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            draft.put(key, {str(module): convert(number) for module, number in value.items()}, origin=name)

    return read


ADAPTER_RULES: Table = {
    **known_elsewhere("r", "lora_alpha", "lora_dropout"),
    **same_name("adapter", "bias", "use_rslora", "use_dora"),
    "peft_type": _read_method,
    "task_type": _read_task,
    "base_model_name_or_path": _read_base,
    "revision": _read_revision,
    "target_modules": to("adapter.targets", targets_of),
    "exclude_modules": to("adapter.exclude", targets_of),
    "modules_to_save": to("adapter.modules_to_save"),
    "init_lora_weights": read_init,
    "rank_pattern": _read_patterns("adapter.rank_pattern", int),
    "alpha_pattern": _read_patterns("adapter.alpha_pattern", float),
    **ignored("says how a finished adapter is loaded; here it is trained", "inference_mode"),
    **ignored("found from the base model's layers", "fan_in_fan_out", "ensure_weight_tying", "auto_mapping"),
    **ignored("only of use with its own kind of training or hardware", "megatron_config", "runtime_config"),
    **ignored("only of use with its own kind of training or hardware", "peft_version", "qalora_group_size"),
    **only(("megatron.core", None), "Megatron layers are not trained here", "megatron_core"),
    **not_honoured(_NO_LIKE, "layers_to_transform", "layers_pattern", "layer_replication", "target_parameters"),
    **not_honoured(_NO_LIKE, "trainable_token_indices", "lora_bias", "alora_invocation_tokens", "arrow_config"),
    **not_honoured(_NO_LIKE, "use_qalora", "use_bdlora", "velora_config", "kasa_config", "monteclora_config"),
    **not_honoured("its own settings are not read; the method's defaults hold", "loftq_config", "eva_config"),
    **not_honoured("its own settings are not read; the method's defaults hold", "corda_config", "lora_ga_config"),
}
ADAPTER_DEFAULTS: Mapping[str, object] = {
    "r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    if is_off(settings.get("target_modules")):
        draft.put("adapter.targets", "default", origin="target_modules")
    if str(settings.get("peft_type")).upper() != "LORA":
        draft.values["adapter"] = {"method": draft.get("adapter.method"), "targets": draft.get("adapter.targets")}
        for key in draft.given:
            if f"adapter.{key}" in draft.fields and key not in draft.values["adapter"]:
                draft.put(f"adapter.{key}", draft.given[key], origin=key)


PEFT_ADAPTER = Tool("peft", "a PEFT adapter file", ADAPTER_RULES, ADAPTER_DEFAULTS, _finish)


def is_adapter_file(document: Mapping[str, object]) -> bool:
    """Whether a JSON object is a PEFT adapter configuration."""
    return ADAPTER_MARK in document
