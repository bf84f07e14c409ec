"""TRL's configuration files and command lines. The file alone does not say whether sft, dpo or another reads it."""

from collections.abc import Mapping
from typing import Any

from loratory.interop import rules
from loratory.interop.draft import Draft, Tool
from loratory.interop.objectives import put_objective
from loratory.interop.trainer_settings import TRAINER_DEFAULTS, TRAINER_RULES, finish_trainer

_CENTER = "center_rewards_coefficient"
_KERNEL = "the fastest exact kernel is chosen by the engine"
_NO_OBJECTIVE_PARAMETER = "this parameter of the objective is not read"


def _read_dtype(draft: Draft, key: str, value: Any) -> None:
    name = str(value).removeprefix("torch.")
    draft.put("model.dtype", {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(name, name), origin=key)


def _read_revision(draft: Draft, key: str, value: Any) -> None:
    if value != "main":
        draft.put("model.revision", value, origin=key)


def _read_mixture(draft: Draft, key: str, value: Any) -> None:
    """TRL's `datasets`: a list of sources."""
    names = []
    for entry in value if isinstance(value, list) else []:
        if not isinstance(entry, Mapping) or "path" not in entry:
            continue
        names.append(hub_split(str(entry["path"]), str(entry.get("split") or "train")))
        for extra in ("name", "data_dir", "data_files", "columns", "fraction"):
            if not rules.is_off(entry.get(extra)):
                draft.remark("not honoured", f"{key}[].{extra}", "only path and split are read", value=entry[extra])
    draft.put("data.train", names, origin=key)


def hub_split(name: str, split: str) -> str:
    """A data set with its split; a file, and the split that is taken anyway, stay without."""
    is_file = name.endswith((".json", ".jsonl", ".csv", ".parquet")) or name.startswith((".", "/"))
    return name if is_file or split == "train" else f"{name}:{split}"


MODEL_RULES: rules.Table = {
    **rules.same_name("model", "model_name_or_path"),
    **rules.same_name("adapter", "use_rslora", "use_dora"),
    **rules.same_name("quantization", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"),
    **rules.known_elsewhere("lora_r", "lora_alpha", "lora_dropout"),
    "model_revision": _read_revision,
    "dtype": _read_dtype,
    "torch_dtype": _read_dtype,
    "lora_target_modules": rules.to("adapter.targets", rules.targets_of),
    "lora_modules_to_save": rules.to("adapter.modules_to_save", rules.names_of),
    "use_bnb_nested_quant": rules.to("quantization.bnb_4bit_use_double_quant"),
    **rules.together("use_peft"),
    **rules.only(("CAUSAL_LM", "SEQ_CLS", None), "models that generate text are trained", "lora_task_type"),
    **rules.not_honoured("there is nothing like it here", "lora_target_parameters"),
    **rules.ignored(_KERNEL, "attn_implementation", "use_flash_attn"),
    **rules.ignored("the dtype of stored 4-bit weights has no influence on values", "bnb_4bit_quant_storage"),
}
SCRIPT_RULES: rules.Table = {
    "datasets": _read_mixture,
    **rules.together(
        "dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_text_field"
    ),
    **rules.approximated("rows are read whole and shuffled over all of them", "dataset_streaming", "streaming"),
    **rules.not_honoured("take validation rows with data.val_size", "test_split_size"),
    **rules.ignored("set the variables yourself", "env"),
    **rules.ignored("speed of reading; the rows are the same", "dataset_num_proc"),
}


def _read_length(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.cutoff_len", value, origin=key)
    draft.put("data.truncation", "truncate", origin=key)
    draft.remark(
        "approximated",
        key,
        "a longer row loses the start of its prompt (plain text: its end); there it loses its end",
        value=value,
    )


SFT_RULES: rules.Table = {
    "max_length": _read_length,
    "max_seq_length": _read_length,
    **rules.together("completion_only_loss", "assistant_only_loss"),
    **rules.only(("nll", None), "cross-entropy is taken", "loss_type"),
    **rules.only((True, None), "rows come in random order", "shuffle_dataset"),
    **rules.not_honoured("rows are never packed: a batch counts rows here and packs there", "packing", "eval_packing"),
    **rules.not_honoured("the tokenizer is used as it is; data.template may name a template", "chat_template_path"),
    **rules.not_honoured("the tokenizer is used as it is", "eos_token"),
    **rules.not_honoured("rows are tokenised by the template", "dataset_kwargs"),
    **rules.approximated("rows lose the start of their prompt", "truncation_mode"),
    **rules.ignored("only of use with packing", "packing_strategy"),
    **rules.ignored("every token is computed once, without padding", "padding_free", "pad_to_multiple_of", "pad_token"),
    **rules.ignored("memory only", "activation_offloading", "model_init_kwargs"),
}
_PREFERENCE_RULES: rules.Table = {
    "max_length": _read_length,
    **rules.together("beta", "loss_type", "label_smoothing", "desirable_weight", "undesirable_weight"),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "ld_alpha", "rpo_alpha", "use_weighting", "sync_ref_model"),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "max_prompt_length", "max_completion_length", "disable_dropout"),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "ref_model_init_kwargs"),
    **rules.ignored("the reference is computed by switching the adapter off", "precompute_ref_log_probs"),
    **rules.ignored("every token is computed once, without padding", "padding_free", "pad_to_multiple_of", "pad_token"),
    **rules.approximated("rows lose the start of their prompt", "truncation_mode"),
}
_REWARD_RULES: rules.Table = {
    "max_length": _read_length,
    **rules.together(_CENTER),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "disable_dropout"),
}
# Parameter below `objective` -> its name there.
_GRPO_PARAMETERS = {
    "grpo.beta": "beta",
    "grpo.epochs": "num_iterations",
    "grpo.clip_epsilon": "epsilon",
    "grpo.clip_epsilon_high": "epsilon_high",
    "grpo.scale_rewards": "scale_rewards",
    "rollout.samples_per_prompt": "num_generations",
    "rollout.max_new_tokens": "max_completion_length",
    "rollout.temperature": "temperature",
}
_GRPO_RULES: rules.Table = {
    **rules.together(*_GRPO_PARAMETERS.values(), "loss_type", "reward_funcs"),
    **rules.not_honoured("answers are sampled by the engine itself", "use_vllm", "vllm_mode"),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "reward_weights", "steps_per_generation", "generation_batch_size"),
    **rules.not_honoured(_NO_OBJECTIVE_PARAMETER, "max_prompt_length", "top_p", "top_k", "min_p", "repetition_penalty"),
}
# What TRL takes where it departs from the Trainer; `bf16` is on unless switched off.
TRL_DEFAULTS: Mapping[str, object] = {
    **TRAINER_DEFAULTS,
    "output_dir": "trainer_output",
    "logging_steps": 10,
    "gradient_checkpointing": True,
    "bf16": True,
    "dtype": "float32",
    "dataset_train_split": "train",
    "dataset_test_split": "test",
    "use_peft": False,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
}
SFT_DEFAULTS: Mapping[str, object] = {
    **TRL_DEFAULTS,
    "learning_rate": 2e-5,
    "max_length": 1024,
    "dataset_text_field": "text",
}
_DPO_DEFAULTS = {**TRL_DEFAULTS, "learning_rate": 1e-6, "beta": 0.1, "loss_type": "sigmoid", "max_length": 1024}
_KTO_DEFAULTS = {**TRL_DEFAULTS, "learning_rate": 1e-6, "beta": 0.1, "max_length": 1024}
_REWARD_DEFAULTS = {**TRL_DEFAULTS, "learning_rate": 1e-4, "max_length": 1024}
_GRPO_DEFAULTS = {
    **TRL_DEFAULTS,
    "learning_rate": 1e-6,
    "beta": 0.0,
    "num_generations": 8,
    "max_completion_length": 512,
    "temperature": 1.0,
    "epsilon": 0.2,
    "num_iterations": 1,
    "scale_rewards": "group",
    "loss_type": "dapo",
}


def finish_common(draft: Draft, settings: Mapping[str, Any]) -> None:
    """What the settings of model, data and Trainer mean together, for every command."""
    if rules.is_off(settings["use_peft"]):
        draft.values["adapter"] = {"method": "full"}
        draft.report("ignored", "lora_r", "use_peft is not true: all weights are trained")
    elif settings.get("lora_target_modules") is None:
        draft.put("adapter.targets", "default", origin="lora_target_modules")
    name = settings.get("dataset_name")
    if name is not None:
        draft.put("data.train", hub_split(str(name), str(settings["dataset_train_split"])), origin="dataset_name")
        if not rules.is_off(settings.get("eval_strategy")):
            test = hub_split(str(name), str(settings["dataset_test_split"]))
            if test != name:
                draft.put("data.validation", test, origin="dataset_test_split")
            else:
                draft.remark("not honoured", "eval_strategy", f"{name} is one file; take rows with data.val_size")
    if settings.get("dataset_config") is not None:
        draft.report("not honoured", "dataset_config", "name the subset in a dataset_info.json entry")
    if settings.get("fp16") is True or draft.given.get("bf16") is False:
        settings = {**settings, "bf16": False}
    finish_trainer(draft, settings)


def finish_text(draft: Draft, settings: Mapping[str, Any]) -> None:
    """Which tokens of a supervised row are trained, and in which column a text stands."""
    is_answer_only = settings.get("completion_only_loss") is True or settings.get("assistant_only_loss") is True
    draft.put("data.train_on_inputs", not is_answer_only, origin="completion_only_loss")
    if settings.get("completion_only_loss") is None and not is_answer_only:
        draft.remark(
            "approximated",
            "completion_only_loss",
            "text and chat rows are trained whole, as there; for rows of prompt and completion, of which only the "
            "completion is trained there, set data.train_on_inputs: false and data.template: plain",
        )
    column = settings["dataset_text_field"]
    if column != "text":
        draft.put("data.format", "text", origin="dataset_text_field")
        draft.put("data.columns", {"text": column}, origin="dataset_text_field")


def _finish_sft(draft: Draft, settings: Mapping[str, Any]) -> None:
    finish_common(draft, settings)
    finish_text(draft, settings)


def _preference(settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    names = ("beta", "label_smoothing", "desirable_weight", "undesirable_weight")
    return {f"preference.{name}": (name, settings.get(name)) for name in names}


def _finish_dpo(draft: Draft, settings: Mapping[str, Any]) -> None:
    finish_common(draft, settings)
    losses = rules.names_of(settings["loss_type"])
    word = losses[0] if len(losses) == 1 else "several losses"
    put_objective(draft, "loss_type", word, _preference(settings))


def _finish_kto(draft: Draft, settings: Mapping[str, Any]) -> None:
    finish_common(draft, settings)
    put_objective(draft, "(command) kto", "kto", _preference(settings))


def _finish_reward(draft: Draft, settings: Mapping[str, Any]) -> None:
    finish_common(draft, settings)
    parameters = {"reward.center_coefficient": (_CENTER, settings.get(_CENTER))}
    put_objective(draft, "(command) reward", "reward", parameters)


def _finish_grpo(draft: Draft, settings: Mapping[str, Any]) -> None:
    finish_common(draft, settings)
    word = str(settings["scale_rewards"]).casefold()
    settings = {**settings, "scale_rewards": {"true": "group", "false": "none"}.get(word, word)}
    loss = {"bnpo": "dapo"}.get(str(settings["loss_type"]), settings["loss_type"])
    parameters = {ours: (theirs, settings.get(theirs)) for ours, theirs in _GRPO_PARAMETERS.items()}
    put_objective(draft, "(command) grpo", "grpo", {**parameters, "grpo.loss": ("loss_type", loss)})
    draft.remark("not honoured", "reward_funcs", "code is not imported; objective.rollout says what an answer earns")


_SHARED: rules.Table = {**TRAINER_RULES, **MODEL_RULES, **SCRIPT_RULES}
TRL_SFT = Tool("trl-sft", "TRL (sft)", {**_SHARED, **SFT_RULES}, SFT_DEFAULTS, _finish_sft)
TRL_DPO = Tool("trl-dpo", "TRL (dpo)", {**_SHARED, **_PREFERENCE_RULES}, _DPO_DEFAULTS, _finish_dpo)
TRL_KTO = Tool("trl-kto", "TRL (kto)", {**_SHARED, **_PREFERENCE_RULES}, _KTO_DEFAULTS, _finish_kto)
TRL_REWARD = Tool("trl-reward", "TRL (reward)", {**_SHARED, **_REWARD_RULES}, _REWARD_DEFAULTS, _finish_reward)
TRL_GRPO = Tool("trl-grpo", "TRL (grpo)", {**_SHARED, **_GRPO_RULES}, _GRPO_DEFAULTS, _finish_grpo)
