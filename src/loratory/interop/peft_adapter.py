"""PEFT's adapter JSON: `adapter_config.json` of a saved adapter, or one of the ready files for `peft.LoraConfig`."""

from collections.abc import Mapping
from typing import Any

from loratory.interop import rules
from loratory.interop.draft import Draft, Tool

ADAPTER_MARK = "peft_type"

_OF_EVERY_METHOD = ("method", "targets", "exclude", "modules_to_save")
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
    match str(value).upper():
        case "CAUSAL_LM":
            pass
        case "SEQ_2_SEQ_LM":
            draft.put("model.task", "seq_2_seq_lm", origin=key)
        case "SEQ_CLS":
            draft.put("objective.name", "classification", origin=key)
        case _:
            draft.report("not honoured", key, "models that generate text or classify it are trained")


def _read_loftq(draft: Draft, key: str, value: Any) -> None:
    if rules.is_off(value):
        return
    if value == {"loftq_bits": 4}:
        draft.put("quantization.load_in_4bit", True, origin=key)
    else:
        draft.report("not honoured", key, "one correction of a base in 4 bits is made; set quantization.load_in_4bit")


def _read_patterns(key: str, convert: type) -> Any:
    def read(draft: Draft, name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            draft.put(key, {str(module): convert(number) for module, number in value.items()}, origin=name)

    return read


def _options(*names: str) -> rules.Table:
    """Settings that stand below `adapter.options` under their own names."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if not rules.is_off(value):
            draft.put("adapter.options", {**(draft.get("adapter.options") or {}), name: value}, origin=name)

    return dict.fromkeys(names, rule)


ADAPTER_RULES: rules.Table = {
    **rules.known_elsewhere("r", "lora_alpha", "lora_dropout"),
    **rules.same_name("adapter", "bias", "use_rslora", "use_dora"),
    "peft_type": _read_method,
    "task_type": _read_task,
    "base_model_name_or_path": _read_base,
    "revision": _read_revision,
    "target_modules": rules.to("adapter.targets", rules.targets_of),
    "exclude_modules": rules.to("adapter.exclude", rules.targets_of),
    "modules_to_save": rules.to("adapter.modules_to_save"),
    "init_lora_weights": read_init,
    "rank_pattern": _read_patterns("adapter.rank_pattern", int),
    "alpha_pattern": _read_patterns("adapter.alpha_pattern", float),
    **rules.ignored("says how a finished adapter is loaded; here it is trained", "inference_mode"),
    **rules.ignored("found from the base model's layers", "fan_in_fan_out", "ensure_weight_tying", "auto_mapping"),
    **rules.ignored("only of use with its own kind of training or hardware", "megatron_config", "runtime_config"),
    **rules.ignored("only of use with its own kind of training or hardware", "peft_version", "qalora_group_size"),
    **rules.only(("megatron.core", None), "Megatron layers are not trained here", "megatron_core"),
    **_options("layers_to_transform", "layers_pattern", "trainable_token_indices", "lora_bias", "use_bdlora"),
    **_options("velora_config", "eva_config", "corda_config", "lora_ga_config"),
    **rules.not_honoured(_NO_LIKE, "layer_replication", "target_parameters", "alora_invocation_tokens", "arrow_config"),
    **rules.not_honoured(_NO_LIKE, "use_qalora", "kasa_config", "monteclora_config"),
    "loftq_config": _read_loftq,
}
_OF_LORA = frozenset(ADAPTER_RULES) - {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
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
    if rules.is_off(settings.get("target_modules")):
        draft.put("adapter.targets", "default", origin="target_modules")
    method = str(settings.get("peft_type")).lower()
    if method != "lora":
        _put_method(draft, method)


def _put_method(draft: Draft, method: str) -> None:
    """Another method than LoRA: its own options stand under PEFT's names, and LoRA's fields say nothing."""
    options = {
        key: value
        for key, value in draft.given.items()
        if f"adapter.options.{method}.{key}" in draft.fields and value is not None
    }
    adapter = draft.values.get("adapter", {})
    draft.values["adapter"] = {name: value for name, value in adapter.items() if name in _OF_EVERY_METHOD}
    if options:
        draft.put("adapter.options", options, origin="peft_type")
    draft.findings = [finding for finding in draft.findings if finding.key not in options]
    said = {finding.key for finding in draft.findings} | set(options)
    for key, value in draft.given.items():
        if key in _OF_LORA and key not in said and not rules.is_off(value):
            draft.report("unknown", key, f"{method} has no such option")


PEFT_ADAPTER = Tool("peft", "a PEFT adapter file", ADAPTER_RULES, ADAPTER_DEFAULTS, _finish)


def is_adapter_file(document: Mapping[str, object]) -> bool:
    """Whether a JSON object is a PEFT adapter configuration."""
    return ADAPTER_MARK in document
