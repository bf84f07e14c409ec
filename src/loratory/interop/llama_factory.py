"""LLaMA-Factory's run files: one flat mapping over its five groups of arguments and those of the Trainer."""

from collections.abc import Mapping
from typing import Any

from loratory.interop import rules
from loratory.interop.draft import Draft, Tool
from loratory.interop.llama_factory_settings import MODEL_RULES, OTHER_METHODS
from loratory.interop.objectives import put_objective
from loratory.interop.trainer_settings import TRAINER_DEFAULTS, TRAINER_RULES, finish_trainer

# Its template names that mean a template of ours; any other is a chat model's, whose tokenizer brings it along.
_TEMPLATES = {
    "default": "llamafactory_default",
    "alpaca": "llamafactory_alpaca",
    "empty": "plain",
    "chatml": "chatml",
    "qwen": "qwen",
    "llama2": "llama2",
    "llama3": "llama3",
    "gemma": "gemma",
    "mistral": "mistral",
}
DEFAULTS: Mapping[str, object] = {
    **TRAINER_DEFAULTS,
    "output_dir": "saves",
    "stage": "sft",
    "finetuning_type": "lora",
    "dataset_dir": "data",
    "cutoff_len": 2048,
    "train_on_prompt": False,
    "mix_strategy": "concat",
    "val_size": 0.0,
    "lora_rank": 8,
    "lora_dropout": 0.0,
    "lora_target": "all",
    "loraplus_lr_embedding": 1e-6,
    "pissa_iter": 16,
    "quantization_type": "nf4",
    "double_quantization": True,
    "disable_gradient_checkpointing": False,
    "pref_loss": "sigmoid",
    "pref_beta": 0.1,
    "simpo_gamma": 0.5,
    "ppo_epochs": 4,
    "ppo_target": 6.0,
    "do_sample": True,
    "temperature": 0.95,
    "top_p": 0.7,
    "top_k": 50,
    "max_new_tokens": 1024,
}


# Parameter below `objective` -> its name there.
_PARAMETERS = {
    "preference.beta": "pref_beta",
    "preference.sft_weight": "pref_ftx",
    "preference.label_smoothing": "dpo_label_smoothing",
    "preference.gamma": "simpo_gamma",
    "preference.desirable_weight": "kto_chosen_weight",
    "preference.undesirable_weight": "kto_rejected_weight",
    "preference.reference_model": "ref_model",
    "ppo.epochs": "ppo_epochs",
    "ppo.kl_target": "ppo_target",
    "ppo.whiten_rewards": "ppo_whiten_rewards",
}


def _read_template(draft: Draft, key: str, value: Any) -> None:
    name = _TEMPLATES.get(str(value))
    draft.put("data.template", name or "chat", origin=key)
    if name is None:
        draft.report("approximated", key, "the chat template of the model's own tokenizer is taken")


def _read_dataset_dir(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, str) or value == "ONLINE" or value.startswith("REMOTE:"):
        draft.report(
            "not honoured", key, "a register is a folder with a dataset_info.json; name data on the hub itself"
        )
    else:
        draft.put("data.dataset_dir", value, origin=key)


def _read_length(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.cutoff_len", value, origin=key)
    draft.put("data.truncation", "truncate", origin=key)
    draft.remark(
        "approximated",
        key,
        "a longer row loses the start of its prompt; there both prompt and answer lose their ends",
        value=value,
    )


def _read_mix(draft: Draft, key: str, value: Any) -> None:
    if value == "interleave_once":
        draft.report("approximated", key, "interleave_over is taken: rows of short sources may come again")
        value = "interleave_over"
    draft.put("data.mix_strategy", value, origin=key)


def _read_probabilities(draft: Draft, key: str, value: Any) -> None:
    draft.put("data.mix_weights", [float(part) for part in rules.names_of(value)], origin=key)


def _read_adapters(draft: Draft, key: str, value: Any) -> None:
    names = rules.names_of(value)
    draft.put("adapter.path", names[0], origin=key)
    if len(names) > 1:
        draft.report("not honoured", key, "one adapter is continued; merge the others into the base first")


DATA_RULES: rules.Table = {
    "dataset": rules.to("data.train", rules.names_of),
    "eval_dataset": rules.to("data.validation", rules.names_of),
    "dataset_dir": _read_dataset_dir,
    "template": _read_template,
    "cutoff_len": _read_length,
    "mix_strategy": _read_mix,
    "interleave_probs": _read_probabilities,
    "train_on_prompt": rules.to("data.train_on_inputs"),
    "default_system": rules.to("data.system"),
    **rules.same_name("data", "val_size", "max_samples"),
    **rules.not_honoured("every answer of a conversation is trained", "mask_history"),
    **rules.not_honoured(
        "rows are never packed: a batch counts rows here and packs there (and without neat_packing, packed rows see "
        "one another there)",
        "packing",
    ),
    **rules.not_honoured("rows are never packed: a batch counts rows here and packs there", "neat_packing"),
    **rules.not_honoured("rows are taken from their source again", "tokenized_path"),
    **rules.approximated("rows are read whole and shuffled over all of them", "streaming"),
    **rules.approximated("tool calls stay the text they are", "tool_format"),
    **rules.approximated("the template decides", "enable_thinking", "preserve_thinking"),
    **rules.ignored("speed and memory of reading; the rows are the same", "buffer_size", "overwrite_cache"),
    **rules.ignored("speed and memory of reading; the rows are the same", "preprocessing_batch_size"),
    **rules.ignored("speed and memory of reading; the rows are the same", "preprocessing_num_workers"),
    **rules.ignored("speed and memory of reading; the rows are the same", "data_shared_file_system"),
    **rules.ignored("only text is trained on", "media_dir"),
    **rules.ignored("evaluation computes the loss alone", "eval_num_beams", "eval_on_each_dataset"),
    **rules.only((True, None), "padding is never trained on", "ignore_pad_token_for_loss"),
}
FINETUNING_RULES: rules.Table = {
    **rules.known_elsewhere("lora_alpha", "lora_dropout", "lora_rank", "finetuning_type"),
    **rules.same_name("adapter", "use_rslora", "use_dora", "create_new_adapter"),
    **rules.same_name("train", "loraplus_lr_ratio", "loraplus_lr_embedding"),
    "lora_target": rules.to("adapter.targets", rules.targets_of),
    "additional_target": rules.to("adapter.modules_to_save", rules.names_of),
    "adapter_name_or_path": _read_adapters,
    "early_stopping_steps": rules.to("train.early_stopping_patience"),
    **rules.together(
        "stage", "pissa_init", "pissa_iter", "pref_beta", "pref_loss", "simpo_gamma", "dpo_label_smoothing"
    ),
    **rules.together("kto_chosen_weight", "kto_rejected_weight", "pref_ftx", "ref_model", "reward_model"),
    **rules.together("ppo_epochs", "ppo_target", "ppo_whiten_rewards"),
    **rules.approximated("weights are bfloat16 and so is the arithmetic; the adapter stays in float32", "pure_bf16"),
    **rules.approximated("a saved adapter always goes with the base that is named", "pissa_convert"),
    **rules.not_honoured("rows come in random order", "disable_shuffling"),
    **rules.ignored(
        "metrics.jsonl holds the loss and token accuracy of every logged step", "plot_loss", "compute_accuracy"
    ),
    **rules.ignored("metrics.jsonl holds tokens per second", "include_effective_tokens_per_second"),
    **OTHER_METHODS,
}
RULES: rules.Table = {**TRAINER_RULES, **MODEL_RULES, **DATA_RULES, **FINETUNING_RULES}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    settings = {**settings, "gradient_checkpointing": not settings["disable_gradient_checkpointing"]}
    finish_trainer(draft, settings)
    if settings["bf16"] is True or settings.get("pure_bf16") is True:
        draft.put("model.dtype", "bfloat16", origin="bf16")
    elif settings["fp16"] is True:
        draft.put("model.dtype", "float16", origin="fp16")
    if settings.get("template") is None:
        draft.put("data.template", "auto", origin="template")
    if settings.get("pissa_init") is True:
        steps = settings["pissa_iter"]
        draft.put("adapter.init", "pissa" if steps == -1 else f"pissa_niter_{steps}", origin="pissa_init")
    if settings["finetuning_type"] == "full":
        draft.values["adapter"] = {"method": "full"}
    elif settings["finetuning_type"] != "lora":
        draft.values.get("adapter", {}).pop("method", None)
        draft.report("not honoured", "finetuning_type", "LoRA is trained instead")
    _finish_quantisation(draft, settings)
    _finish_objective(draft, settings)


def _finish_quantisation(draft: Draft, settings: Mapping[str, Any]) -> None:
    bits = settings.get("quantization_bit")
    if bits in {4, 8}:
        draft.put(f"quantization.load_in_{bits}bit", True, origin="quantization_bit")
        draft.put("quantization.bnb_4bit_quant_type", settings["quantization_type"], origin="quantization_type")
        double = settings["double_quantization"]
        draft.put("quantization.bnb_4bit_use_double_quant", double, origin="double_quantization")
    elif bits is not None:
        draft.report("not honoured", "quantization_bit", "the base is kept in 4 or 8 bits, or not quantised")


def _finish_objective(draft: Draft, settings: Mapping[str, Any]) -> None:
    stage = settings["stage"]
    word = stage
    if stage == "pt":
        word = "sft"
        draft.put("data.format", "text", origin="stage")
        draft.remark("approximated", "stage", "each text is a row of its own; there texts are joined and cut evenly")
    elif stage == "dpo":
        word = settings["pref_loss"]
    parameters = {ours: (theirs, settings.get(theirs)) for ours, theirs in _PARAMETERS.items()}
    if settings.get("reward_model") is not None:
        parameters["rollout.reward"] = ("reward_model", "model")
        parameters["rollout.reward_model"] = ("reward_model", settings["reward_model"])
    put_objective(draft, "stage", word, parameters)


LLAMA_FACTORY = Tool(
    "llamafactory", "LLaMA-Factory", RULES, DEFAULTS, _finish, programs=("llamafactory-cli", "lmf", "llamafactory")
)
