"""The flags of PEFT's examples/sft."""

import json
from typing import Any

import pytest

from loratory.interop.peft_sft import DEFAULTS, RULES
from loratory.interop.sft_recipe import flags_to_tokens, format_command, recipe_flags


def test_a_command_field_by_field(reader: Any) -> None:
    run = reader.files("peft_sft.sh")
    assert run.tool == "peft-sft"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "meta-llama/Llama-2-70b-hf",
        "data.train": "smangrul/ultrachat-10k-chatml",
        "data.validation": "smangrul/ultrachat-10k-chatml:test",
        "data.format": "chat",
        "data.template": "chatml",
        "data.train_on_inputs": True,
        "data.cutoff_len": 2048,
        "data.truncation": "truncate",
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.1,
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_compute_dtype": "bfloat16",
        "quantization.bnb_4bit_use_double_quant": True,
        "train.num_epochs": 1.0,
        "train.batch_size": 64,
        "train.micro_batch_size": 8,
        "train.learning_rate": 0.0001,
        "train.warmup_ratio": 0.0,
        "train.weight_decay": 0.0001,
        "train.precision": "bfloat16",
        "train.gradient_checkpointing": True,
        "train.seed": 100,
        "train.logging_steps": 5,
        "train.keep_best": False,
        "predict.batch_size": 8,
        "run.name": "llama-sft-qlora",
        "run.output_dir": ".",
    }
    assert reader.said(run)["not honoured"] == {"packing"}


def test_a_json_file_field_by_field(reader: Any) -> None:
    assert reader.departures(reader.files("peft_sft.json").config) == {
        "model.model_name_or_path": "bigscience/bloomz-560m",
        "data.train": "rows.jsonl",
        "data.template": "alpaca",
        "data.train_on_inputs": True,
        "data.cutoff_len": 256,
        "data.truncation": "truncate",
        "adapter.rank": 64,
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.1,
        "adapter.targets": ["query_key_value"],
        "train.batch_size": 8,
        "train.micro_batch_size": 8,
        "train.learning_rate": 0.0003,
        "train.schedule": "linear",
        "train.warmup_ratio": 0.0,
        "train.logging_steps": 500,
        "train.save_steps": 500,
        "train.keep_best": False,
        "predict.batch_size": 8,
        "run.name": "bloomz",
        "run.output_dir": "out",
    }


@pytest.mark.parametrize(
    ("flags", "section", "expected"),
    [
        ("", "adapter", {"method": "full"}),
        ("--use_peft_lora True", "adapter", {"method": "lora", "rank": 64, "alpha": 16.0, "dropout": 0.1}),
        ("--dataset_text_field body", "data", {"format": "text", "columns": {"text": "body"}}),
        ("--completion_only_loss True", "data", {"train_on_inputs": False}),
        ("--dataset_name o/d --splits train", "data", {"train": "o/d", "validation": None}),
        ("--dataset_name o/d --splits train_sft,test_sft", "data", {"train": "o/d:train_sft", "validation": None}),
        (
            "--dataset_name o/d --splits train_sft,test_sft --eval_strategy epoch",
            "data",
            {"train": "o/d:train_sft", "validation": "o/d:test_sft"},
        ),
        ("--max_seq_length 77", "data", {"cutoff_len": 77}),
        (
            "--use_8bit_quantization True --use_peft_lora True",
            "quantization",
            {"load_in_8bit": True, "load_in_4bit": False},
        ),
    ],
)
def test_single_settings(reader: Any, flags: str, section: str, expected: dict[str, object]) -> None:
    config = reader.settings("peft-sft", f"--model_name_or_path m {flags}").config
    values = getattr(config, section).model_dump()
    assert {key: values[key] for key in expected} == expected


def test_every_default_has_a_rule() -> None:
    assert set(DEFAULTS) <= set(RULES)


RANK4 = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "target_modules": ["q_proj", "v_proj"],
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "bias": "none",
    "inference_mode": True,
}


def recipe(adapter: dict[str, Any], num_epochs: float = 1.0) -> dict[str, object]:
    return recipe_flags(
        adapter,
        adapter_file="my adapter.json",
        model_path="m",
        dataset_name="yahma/alpaca-cleaned",
        output_dir="outputs/x",
        num_epochs=num_epochs,
    )


def test_the_recipe_holds_all_documented_values(reader: Any) -> None:
    """The fixture is the documented command, flag for flag and in its order."""
    documented = json.loads((reader.fixtures / "peft_sft_recipe.json").read_text(encoding="utf-8"))
    assert list(recipe(RANK4, 3.0).items()) == list(documented.items())


@pytest.mark.parametrize(
    "more",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": None},
        {"peft_type": "IA3"},
    ],
)
def test_what_the_lora_flags_cannot_say_is_left_to_the_file(more: dict[str, Any]) -> None:
    assert recipe({**RANK4, **more})["adapter_config"] == "my adapter.json"


def test_the_printed_command_means_what_the_flags_mean(reader: Any) -> None:
    flags = recipe({**RANK4, "target_modules": r".*\.(q|v)_proj"}, 0.5)
    printed = format_command("python train.py", flags)
    from_text = reader.departures(_read(printed))
    assert from_text["adapter.targets"] == r".*\.(q|v)_proj"
    assert from_text["train.num_epochs"] == 0.5
    assert "train.batch_size" not in from_text  # 4 rows by 4 passes are our default, 16
    assert flags_to_tokens({"a": 1, "b": False}) == ["--a", "1", "--b", "False"]


def _read(command: str) -> Any:
    from loratory.config.foreign_file import read_foreign_run

    return read_foreign_run([], tool="peft-sft", command=command).config


def test_the_shipped_adapter_file_is_plain_peft_json(reader: Any) -> None:
    import peft

    path = reader.fixtures.parents[2] / "config" / "lora_llama2_7b_rank4.json"
    config = peft.LoraConfig(**json.loads(path.read_text()))
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (4, 8, 0.1, "none")
    assert config.target_modules == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert config.inference_mode is True
