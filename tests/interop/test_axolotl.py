"""Axolotl's YAML."""

from pathlib import Path
from typing import Any

import pytest

from loratory.config.document import dump_document
from loratory.config.foreign_file import ForeignRun, read_foreign_run
from loratory.interop.axolotl import DEFAULTS, RULES


def test_qlora_field_by_field(reader: Any) -> None:
    run = reader.files("axolotl_qlora.yaml")
    assert run.tool == "axolotl"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "NousResearch/Llama-3.2-1B",
        "data.train": ["teknium/GPT4-LLM-Cleaned", "more.jsonl"],
        "data.val_size": 0.1,
        "data.format": "alpaca",
        "data.template": "alpaca",
        "data.cutoff_len": 2048,
        "data.truncation": "drop",
        "adapter.rank": 32,
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_use_double_quant": True,
        "train.num_epochs": 1.0,
        "train.batch_size": 8,
        "train.micro_batch_size": 2,
        "train.warmup_steps": 10,
        "train.optimizer": "paged_adamw_8bit",
        "train.gradient_checkpointing": True,
        "train.save_total_limit": 4,
        "train.keep_best": False,
        "run.name": "qlora-out",
        "run.trackers": ["wandb"],
        "run.project": "one",
    }
    assert reader.said(run) == {
        "not honoured": {"sample_packing", "datasets[1].weight"},
        "approximated": {"val_set_size", "evals_per_epoch"},
        "ignored": {
            "strict",
            "dataset_prepared_path",
            "pad_to_sequence_len",
            "tf32",
            "flash_attention",
            "special_tokens",
        },
    }


def test_dpo_field_by_field(reader: Any) -> None:
    run = reader.files("axolotl_dpo.yaml", processes=4)
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct",
        "data.train": ["pairs.jsonl"],
        "data.template": "llama3",
        "data.cutoff_len": 4096,
        "data.truncation": "drop",
        "adapter.rank": 32,
        "adapter.alpha": 16.0,
        "adapter.targets": ["q_proj", "v_proj"],
        "adapter.use_rslora": True,
        "quantization.load_in_8bit": True,
        "objective.name": "dpo",
        "objective.preference.beta": 0.3,
        "train.num_epochs": 1.0,
        "train.max_steps": 50,
        "train.batch_size": 4,
        "train.micro_batch_size": 1,
        "train.learning_rate": 0.0001,
        "train.save_total_limit": 4,
        "train.keep_best": False,
        "run.name": "model-out",
        "run.output_dir": ".",
    }
    assert reader.said(run)["not honoured"] == {"deepspeed"}
    assert "datasets[0].type" in reader.said(run)["approximated"]


def axolotl(folder: Path, **values: Any) -> ForeignRun:
    document = {
        "base_model": "m",
        "adapter": "lora",
        "learning_rate": 1e-4,
        "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
        **values,
    }
    path = folder / "axolotl.yaml"
    path.write_text(dump_document(document))
    return read_foreign_run([path])


CHATML = ("data.template", "chatml")


@pytest.mark.parametrize(
    ("values", "key", "expected"),
    [
        ({}, "data.cutoff_len", 512),
        ({}, "data.truncation", "drop"),
        ({}, "train.num_epochs", 1.0),
        ({}, "train.batch_size", 1),
        ({}, "train.schedule", "cosine"),
        ({}, "train.warmup_ratio", 0.03),
        ({}, "adapter.targets", "default"),
        ({}, "run.name", "model-out"),
        ({"adapter": None}, "adapter.method", "full"),
        ({"adapter": "qlora"}, "quantization.load_in_4bit", True),
        ({"lora_target_linear": True}, "adapter.targets", "all"),
        ({"excess_length_strategy": "raise"}, "data.truncation", "error"),
        ({"bf16": True}, "model.dtype", "bfloat16"),
        ({"bf16": False}, "model.dtype", "float32"),
        ({"datasets": [{"path": "o/d", "split": "mini", "type": "completion"}]}, "data.train", ["o/d:mini"]),
        ({"datasets": [{"path": "r.jsonl", "type": "completion", "field": "body"}]}, "data.columns", {"text": "body"}),
        ({"datasets": [{"path": "r.jsonl", "type": "chat_template"}]}, "data.template", "chat"),
        ({"datasets": [{"path": "r.jsonl", "type": "chat_template"}], "chat_template": "chatml"}, *CHATML),
        ({"test_datasets": [{"path": "t.jsonl", "type": "alpaca"}]}, "data.validation", ["t.jsonl"]),
        ({"rl": "orpo", "orpo_alpha": 0.4}, "objective.preference.beta", 0.4),
    ],
)  # fmt: skip
def test_single_settings(tmp_path: Path, values: dict[str, Any], key: str, expected: object) -> None:
    config: Any = axolotl(tmp_path, **values).config
    for step in key.split("."):
        config = getattr(config, step)
    assert config == expected


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"sample_packing": True}, "sample_packing"),
        ({"relora": True}, "relora"),
        ({"fsdp_config": {"x": 1}}, "fsdp_config"),
        ({"special_tokens": {"eos_token": "</x>"}}, "special_tokens"),
        ({"datasets": [{"path": "r.jsonl", "type": "input_output"}]}, "datasets[0].type"),
        ({"datasets": [{"path": "r.jsonl", "type": "alpaca", "train_on_eos": "last"}]}, "datasets[0].train_on_eos"),
        ({"rl": "gdpo"}, "rl"),
        ({"optimizer": "muon"}, "optimizer"),
    ],
)
def test_what_makes_the_run_differ_is_said(reader: Any, tmp_path: Path, values: dict[str, Any], name: str) -> None:
    assert name in reader.said(axolotl(tmp_path, **values))["not honoured"]


def test_every_default_has_a_rule() -> None:
    assert set(DEFAULTS) <= set(RULES)
