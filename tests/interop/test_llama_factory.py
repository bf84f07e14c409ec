"""LLaMA-Factory's run files."""

from typing import Any

import pytest

from loratory.errors import ConfigError
from loratory.interop.llama_factory import DEFAULTS, RULES

REQUIRED = "--model_name_or_path m --dataset d"


def test_supervised_run_field_by_field(reader: Any) -> None:
    run = reader.files("llamafactory_sft.yaml", "dataset_info.json")
    assert run.tool == "llamafactory"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "meta-llama/Llama-3.2-1B",
        "model.dtype": "bfloat16",
        "data.train": ["telecom", "identity"],
        "data.val_size": 0.1,
        "data.dataset_dir": str(reader.fixtures),
        "data.template": "llamafactory_default",
        "data.truncation": "truncate",
        "data.max_samples": 5000,
        "adapter.rank": 128,
        "adapter.alpha": 256.0,
        "adapter.dropout": 0.1,
        "adapter.targets": ["q_proj", "v_proj"],
        "adapter.use_rslora": True,
        "adapter.modules_to_save": ["embed_tokens", "lm_head"],
        "train.num_epochs": 5.0,
        "train.batch_size": 64,
        "train.micro_batch_size": 8,
        "train.learning_rate": 5e-05,
        "train.warmup_ratio": 0.1,
        "train.loraplus_lr_ratio": 16.0,
        "train.precision": "bfloat16",
        "train.logging_steps": 10,
        "train.eval_steps": 100,
        "train.save_steps": 200,
        "train.keep_best": False,
        "predict.max_new_tokens": 1024,
        "predict.batch_size": 2,
        "predict.do_sample": True,
        "predict.temperature": 0.95,
        "predict.top_p": 0.7,
        "predict.top_k": 50,
        "run.name": "sft",
        "run.output_dir": "saves/llama3-1b/lora",
        "run.trackers": ["tensorboard"],
    }
    assert reader.said(run) == {
        "not honoured": {"neat_packing", "use_galore", "deepspeed"},
        "unknown": {"lora_ranks"},
        "approximated": {"cutoff_len", "warmup_ratio", "save_total_limit"},
        "ignored": {
            "report_to",
            "trust_remote_code",
            "do_train",
            "overwrite_cache",
            "preprocessing_num_workers",
            "plot_loss",
            "overwrite_output_dir",
            "ddp_timeout",
            "galore_rank",
        },
    }
    unknown = next(finding for finding in run.findings if finding.kind == "unknown")
    assert "Did you mean 'lora_rank'?" in unknown.reason


def test_preference_run_field_by_field(reader: Any) -> None:
    run = reader.files("llamafactory_dpo.yaml")
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "Qwen/Qwen3-4B",
        "data.train": ["dpo_en_demo"],
        "data.dataset_dir": "data",
        "data.template": "chat",
        "data.cutoff_len": 2048,
        "data.truncation": "truncate",
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_use_double_quant": True,
        "objective.name": "dpo",
        "objective.preference.loss": "ipo",
        "objective.preference.beta": 0.2,
        "train.max_steps": 100,
        "train.batch_size": 8,
        "train.micro_batch_size": 8,
        "train.learning_rate": 5e-05,
        "train.schedule": "linear",
        "train.warmup_ratio": 0.0,
        "train.gradient_checkpointing": True,
        "train.logging_steps": 500,
        "train.save_steps": 500,
        "train.keep_best": False,
        "predict.max_new_tokens": 1024,
        "predict.batch_size": 8,
        "predict.do_sample": True,
        "predict.temperature": 0.95,
        "predict.top_p": 0.7,
        "predict.top_k": 50,
        "run.name": "dpo",
        "run.output_dir": "saves",
    }
    assert reader.said(run)["approximated"] == {"cutoff_len", "template", "save_total_limit"}


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        ("", "train.learning_rate", 5e-5),
        ("", "train.schedule", "linear"),
        ("", "train.warmup_ratio", 0),
        ("", "data.cutoff_len", 2048),
        ("", "data.dataset_dir", "data"),
        ("", "train.batch_size", 8),
        ("", "train.gradient_checkpointing", True),
        ("", "adapter.rank", 8),
        ("", "adapter.targets", "all"),
        ("", "predict.top_p", 0.7),
        ("--finetuning_type full", "adapter.method", "full"),
        ("--train_on_prompt", "data.train_on_inputs", True),
        ("--pissa_init", "adapter.init", "pissa_niter_16"),
        ("--pissa_init --pissa_iter -1", "adapter.init", "pissa"),
        ("--adapter_name_or_path a/b --create_new_adapter true", "adapter.path", "a/b"),
        ("--mix_strategy interleave_once", "data.mix_strategy", "interleave_over"),
        ("--mix_strategy interleave_under --interleave_probs 0.3,0.7", "data.mix_weights", [0.3, 0.7]),
        ("--template llama3", "data.template", "llama3"),
        ("--template alpaca", "data.template", "llamafactory_alpaca"),
        ("--default_system 'Be brief.'", "data.system", "Be brief."),
        ("--fp16", "train.precision", "float16"),
        ("--lr_scheduler_type constant --warmup_steps 9", "train.warmup_ratio", 0),
        ("--warmup_steps 9 --warmup_ratio 0.5", "train.warmup_steps", 9),
        ("--warmup_steps 0.25", "train.warmup_ratio", 0.25),
        ("--early_stopping_steps 4", "train.early_stopping_patience", 4),
        ("--eval_dataset a,b", "data.validation", ["a", "b"]),
        ("--stage kto --kto_chosen_weight 2.0", "objective.preference.desirable_weight", 2.0),
        ("--stage dpo --pref_loss simpo --simpo_gamma 0.9", "objective.preference.gamma", 0.9),
        ("--stage dpo --pref_loss orpo", "objective.name", "orpo"),
        ("--stage dpo --pref_loss sigmoid --dpo_label_smoothing 0.1", "objective.preference.label_smoothing", 0.1),
        ("--stage pt", "data.format", "text"),
        ("--stage ppo --reward_model r", "objective.rollout.reward_model", "r"),
        ("--stage ppo --reward_model r", "objective.ppo.kl_target", 6.0),
    ],
)
def test_single_settings(reader: Any, flags: str, key: str, value: object) -> None:
    config = reader.settings("llamafactory", f"{REQUIRED} {flags}").config
    for step in key.split("."):
        config = getattr(config, step)
    assert config == value


@pytest.mark.parametrize(
    "flags",
    [
        "--use_galore",
        "--use_badam true",
        "--packing true",
        "--neat_packing true",
        "--deepspeed ds.json",
        "--mask_history",
        "--rope_scaling linear",
        "--resize_vocab",
        "--finetuning_type freeze",
        "--stage dpo --pref_loss kto_pair",
        "--quantization_bit 3",
        "--quantization_method hqq",
        "--adapter_name_or_path a,b",
        "--neftune_noise_alpha 5",
        "--label_smoothing_factor 0.1",
        "--optim adafactor",
        "--lr_scheduler_type polynomial",
        "--repetition_penalty 1.2",
    ],
)
def test_what_makes_the_run_differ_is_said(reader: Any, flags: str) -> None:
    name = flags.split()[-2 if "pref_loss" in flags else 0].removeprefix("--")
    found = reader.said(reader.settings("llamafactory", f"{REQUIRED} {flags}"))["not honoured"]
    assert found == {"stage" if name == "pref_loss" else name}


@pytest.mark.parametrize("flags", ["--use_galore false", "--packing false", "--rope_scaling null", "--num_beams 1"])
def test_what_is_switched_off_is_not_worth_a_word(reader: Any, flags: str) -> None:
    assert "not honoured" not in reader.said(reader.settings("llamafactory", f"{REQUIRED} {flags}"))


def test_clipping_switched_off(reader: Any) -> None:
    run = reader.settings("llamafactory", f"{REQUIRED} --max_grad_norm 0")
    assert run.config.train.max_grad_norm == 1e9
    assert "max_grad_norm" in reader.said(run)["approximated"]


def test_a_wrong_value_is_a_fault_of_our_field(reader: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        reader.settings("llamafactory", f"{REQUIRED} --learning_rate fast")


def test_a_register_without_the_entry(reader: Any) -> None:
    run = reader.files("llamafactory_dpo.yaml", "dataset_info.json")
    finding = next(finding for finding in run.findings if finding.key == "dataset")
    assert (finding.kind, finding.value) == ("not honoured", "dpo_en_demo")


def test_every_default_has_a_rule() -> None:
    assert set(DEFAULTS) <= set(RULES)
