"""The flags of PEFT's `examples/sft/train.py`, as a command line or one JSON file; also what `loratory sft` takes."""

from collections.abc import Mapping
from typing import Any

from loratory.interop import rules
from loratory.interop.draft import Draft, Tool
from loratory.interop.trainer_settings import TRAINER_DEFAULTS, TRAINER_RULES, finish_trainer
from loratory.interop.trl import SFT_RULES, finish_text, hub_split

RULES: rules.Table = {
    **TRAINER_RULES,
    **SFT_RULES,
    **rules.same_name("model", "model_name_or_path"),
    **rules.same_name("quantization", "bnb_4bit_quant_type"),
    **rules.known_elsewhere("lora_r", "lora_alpha", "lora_dropout"),
    "lora_target_modules": rules.to("adapter.targets", rules.targets_of),
    "use_nested_quant": rules.to("quantization.bnb_4bit_use_double_quant"),
    "bnb_4bit_compute_dtype": rules.to("quantization.bnb_4bit_compute_dtype"),
    "use_4bit_quantization": rules.to("quantization.load_in_4bit"),
    "use_8bit_quantization": rules.to("quantization.load_in_8bit"),
    **rules.together("chat_template_format", "dataset_name", "splits", "use_peft_lora", "dataset_text_field"),
    **rules.ignored(
        "the fastest exact kernel is chosen by the engine", "use_flash_attn", "use_unsloth", "use_reentrant"
    ),
    **rules.ignored("the dtype of stored 4-bit weights has no influence on values", "bnb_4bit_quant_storage_dtype"),
    **rules.ignored("only of use with packing: the end token is trained after every row", "append_concat_token"),
    **rules.approximated("begin tokens stand where the tokenizer puts them", "add_special_tokens"),
    **rules.not_honoured("the tokenizer is used as it is", "hub_dataset_config"),
}
DEFAULTS: Mapping[str, object] = {
    **TRAINER_DEFAULTS,
    "output_dir": "trainer_output",
    "chat_template_format": "none",
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_r": 64,
    "lora_target_modules": "q_proj,k_proj,v_proj,o_proj,down_proj,up_proj,gate_proj",
    "use_nested_quant": False,
    "bnb_4bit_compute_dtype": "float16",
    "bnb_4bit_quant_type": "nf4",
    "use_peft_lora": False,
    "use_8bit_quantization": False,
    "use_4bit_quantization": False,
    "dataset_name": "timdettmers/openassistant-guanaco",
    "dataset_text_field": "text",
    "max_length": 1024,
    "splits": "train,test",
}
# What chat_template_format means for rows that are not plain text.
_TEMPLATES = {"none": "alpaca", "chatml": "chatml"}


def _finish(draft: Draft, settings: Mapping[str, Any]) -> None:
    if rules.is_off(settings["use_peft_lora"]):
        draft.values["adapter"] = {"method": "full"}
    _finish_data(draft, settings)
    if settings["use_4bit_quantization"] is not True:
        # These say nothing without it; our defaults keep the file short of surprises.
        for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
            draft.values.get("quantization", {}).pop(key, None)
    if "max_seq_length" in draft.given and "max_length" not in draft.given:
        draft.put("data.cutoff_len", draft.given["max_seq_length"], origin="max_seq_length")
    finish_trainer(draft, settings)


def _finish_data(draft: Draft, settings: Mapping[str, Any]) -> None:
    word = str(settings["chat_template_format"])
    draft.put("data.template", _TEMPLATES.get(word, "chat"), origin="chat_template_format")
    if word == "chatml":
        draft.report("approximated", "chat_template_format", "its tokens have to be in the model's vocabulary already")
    elif word != "none":
        draft.report("not honoured", "chat_template_format", "the tokenizer's own chat template is taken")
    name = str(settings["dataset_name"])
    splits = [split for split in str(settings["splits"]).split(",") if split]
    kinds = {kind: [split for split in splits if kind in split] for kind in ("train", "test")}
    draft.put("data.train", hub_split(name, (kinds["train"] or ["train"])[0]), origin="dataset_name")
    if kinds["test"] and not rules.is_off(settings["eval_strategy"]):
        test = hub_split(name, kinds["test"][0])
        if test != name:
            draft.put("data.validation", test, origin="splits")
        else:
            draft.report("not honoured", "splits", f"{name} is one file; take validation rows with data.val_size")
    finish_text(draft, settings)
    if word != "none":
        # Conversations are rendered into the text column there, so that their own column is `messages`.
        draft.put("data.format", "chat", origin="chat_template_format")
        draft.values["data"].pop("columns", None)


PEFT_SFT = Tool("peft-sft", "PEFT's examples/sft", RULES, DEFAULTS, _finish, programs=("train.py",))
