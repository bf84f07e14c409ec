"""TRL's files and command lines."""

from typing import Any

import pytest

from loratory.interop.catalogue import TOOLS


def test_sft_field_by_field(reader: Any) -> None:
    run = reader.files("trl_sft.yaml")
    assert run.tool == "trl-sft"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "Qwen/Qwen2-0.5B",
        "model.dtype": "float32",
        "data.train": "trl-lib/Capybara",
        "data.validation": "trl-lib/Capybara:test",
        "data.cutoff_len": 512,
        "data.truncation": "truncate",
        "adapter.rank": 32,
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "adapter.targets": ["q_proj", "v_proj"],
        "train.micro_batch_size": 2,
        "train.schedule": "linear",
        "train.warmup_ratio": 0.0,
        "train.precision": "bfloat16",
        "train.logging_steps": 10,
        "train.eval_steps": 100,
        "train.save_steps": 500,
        "train.keep_best": False,
        "predict.batch_size": 8,
        "run.name": "Qwen2-0.5B-SFT",
        "run.output_dir": ".",
    }
    assert run.config.train.batch_size == 16
    assert reader.said(run) == {
        "not honoured": {"neftune_noise_alpha"},
        "approximated": {"max_length", "save_total_limit"},
    }


def test_dpo_field_by_field(reader: Any) -> None:
    run = reader.files("trl_dpo.sh")
    assert run.tool == "trl-dpo"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "Qwen/Qwen2-0.5B-Instruct",
        "model.dtype": "float32",
        "data.train": "trl-lib/ultrafeedback_binarized",
        "data.truncation": "truncate",
        "adapter.rank": 32,
        "adapter.alpha": 32.0,
        "adapter.dropout": 0.05,
        "adapter.targets": "default",
        "quantization.load_in_4bit": True,
        "objective.name": "dpo",
        "objective.preference.beta": 0.05,
        "train.num_epochs": 1.0,
        "train.batch_size": 2,
        "train.micro_batch_size": 2,
        "train.learning_rate": 5e-06,
        "train.schedule": "linear",
        "train.warmup_ratio": 0.0,
        "train.logging_steps": 10,
        "train.save_steps": 500,
        "train.keep_best": False,
        "predict.batch_size": 8,
        "run.name": "Qwen2-0.5B-DPO",
        "run.output_dir": ".",
    }


@pytest.mark.parametrize(
    ("tool", "flags", "key", "value"),
    [
        ("trl-sft", "", "train.learning_rate", 2e-5),
        ("trl-dpo", "", "train.learning_rate", 1e-6),
        ("trl-kto", "", "objective.name", "kto"),
        ("trl-grpo", "", "objective.rollout.samples_per_prompt", 8),
        ("trl-grpo", "--max_completion_length 99", "objective.rollout.max_new_tokens", 99),
        ("trl-grpo", "--epsilon_high 0.28", "objective.grpo.clip_epsilon_high", 0.28),
        ("trl-grpo", "--scale_rewards false", "objective.grpo.scale_rewards", "none"),
        ("trl-reward", "--center_rewards_coefficient 0.01", "objective.reward.center_coefficient", 0.01),
        ("trl-sft", "", "train.gradient_checkpointing", True),
        ("trl-sft", "", "adapter.method", "full"),
        ("trl-sft", "", "data.cutoff_len", 1024),
        ("trl-sft", "", "train.precision", "bfloat16"),
        ("trl-sft", "--fp16 true", "train.precision", "float16"),
        ("trl-sft", "--use_peft --lora_target_modules all-linear", "adapter.targets", "all"),
        ("trl-sft", "--dataset_name o/d --dataset_train_split mini", "data.train", "o/d:mini"),
        ("trl-dpo", "--loss_type hinge", "objective.preference.loss", "hinge"),
        ("trl-kto", "--desirable_weight 1.5", "objective.preference.desirable_weight", 1.5),
    ],
)
def test_single_settings(reader: Any, tool: str, flags: str, key: str, value: object) -> None:
    config = reader.settings(tool, f"--model_name_or_path m {flags}").config
    for step in key.split("."):
        config = getattr(config, step)
    assert config == value


@pytest.mark.parametrize(
    ("tool", "flags", "name"),
    [
        ("trl-sft", "--packing", "packing"),
        ("trl-sft", "--loss_type dft", "loss_type"),
        ("trl-sft", "--chat_template_path x", "chat_template_path"),
        ("trl-sft", "--dataset_config c", "dataset_config"),
        ("trl-dpo", "--loss_type sigmoid bco_pair", "loss_type"),
    ],
)
def test_what_makes_the_run_differ_is_said(reader: Any, tool: str, flags: str, name: str) -> None:
    assert name in reader.said(reader.settings(tool, f"--model_name_or_path m {flags}"))["not honoured"]


@pytest.mark.parametrize("name", [name for name in TOOLS if name.startswith("trl-")])
def test_every_default_has_a_rule(name: str) -> None:
    assert set(TOOLS[name].defaults) <= set(TOOLS[name].rules)
