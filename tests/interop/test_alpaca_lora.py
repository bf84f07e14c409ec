"""alpaca-lora's and LLM-Pruner's command lines."""

from typing import Any

import pytest

from loratory.interop.alpaca_lora import ALPACA_LORA, LLM_PRUNER


def test_alpaca_lora_field_by_field(reader: Any) -> None:
    run = reader.files("alpaca_lora.sh")
    assert run.tool == "alpaca-lora"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "decapoda-research/llama-7b-hf",
        "model.dtype": "float16",
        "data.train": "alpaca_data_cleaned.json",
        "data.val_size": 2000,
        "data.format": "alpaca",
        "data.template": "alpaca",
        "data.train_on_inputs": True,
        "data.cutoff_len": 512,
        "data.truncation": "truncate",
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "adapter.targets": ["q_proj", "v_proj"],
        "quantization.load_in_8bit": True,
        "train.batch_size": 128,
        "train.micro_batch_size": 4,
        "train.learning_rate": 0.0001,
        "train.schedule": "linear",
        "train.warmup_steps": 100,
        "train.precision": "float16",
        "train.gradient_checkpointing": True,
        "train.group_by_length": True,
        "train.logging_steps": 10,
        "train.eval_steps": 200,
        "train.save_steps": 200,
        "train.save_total_limit": 3,
        "run.name": "lora-alpaca",
        "run.output_dir": ".",
    }
    assert reader.said(run) == {
        "approximated": {"cutoff_len", "val_set_size", "(fixed) warmup_steps", "(fixed) load_in_8bit"}
    }


def test_llm_pruner_field_by_field(reader: Any) -> None:
    run = reader.files("llm_pruner.sh")
    assert run.tool == "llm-pruner"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "prune_log/llama_prune/pytorch_model.bin",
        "model.dtype": "float16",
        "data.train": "yahma/alpaca-cleaned",
        "data.val_size": 2000,
        "data.format": "alpaca",
        "data.template": "alpaca",
        "data.cutoff_len": 256,
        "data.truncation": "truncate",
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "adapter.targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
        "train.num_epochs": 2.0,
        "train.batch_size": 64,
        "train.micro_batch_size": 4,
        "train.learning_rate": 0.0001,
        "train.schedule": "linear",
        "train.warmup_steps": 100,
        "train.precision": "float16",
        "train.gradient_checkpointing": True,
        "train.logging_steps": 10,
        "train.eval_steps": 100,
        "train.save_steps": 200,
        "train.save_total_limit": 20,
        "run.name": "llama_0.2",
        "run.output_dir": "tune_log",
        "run.trackers": ["wandb"],
        "run.project": "llama_tune",
    }
    assert reader.said(run)["not honoured"] == {"extra_val_dataset"}


@pytest.mark.parametrize(
    ("tool", "flags", "key", "value"),
    [
        ("alpaca-lora", "", ("train", "num_epochs"), 3),
        ("alpaca-lora", "", ("train", "learning_rate"), 3e-4),
        ("alpaca-lora", "", ("train", "batch_size"), 128),
        ("alpaca-lora", "", ("data", "train_on_inputs"), True),
        ("alpaca-lora", "--train_on_inputs=False", ("data", "train_on_inputs"), False),
        ("alpaca-lora", "", ("data", "cutoff_len"), 256),
        ("alpaca-lora", "", ("data", "add_eos_token"), True),
        ("alpaca-lora", "--add_eos_token False", ("data", "add_eos_token"), True),
        ("alpaca-lora", "", ("data", "train"), "yahma/alpaca-cleaned"),
        ("alpaca-lora", "--prompt_template_name vigogne", ("data", "template"), "vigogne"),
        ("alpaca-lora", "--prompt_template_name mine", ("data", "template"), "templates/mine.json"),
        ("llm-pruner", "", ("train", "num_epochs"), 5),
        ("llm-pruner", "", ("data", "train_on_inputs"), False),
        ("llm-pruner", "--no_instruction", ("data", "template"), "plain"),
    ],
)
def test_single_settings(reader: Any, tool: str, flags: str, key: tuple[str, str], value: object) -> None:
    model = "--base_model m" if tool == "alpaca-lora" else "--prune_model m"
    config = reader.settings(tool, f"{model} {flags}").config
    assert getattr(getattr(config, key[0]), key[1]) == value


@pytest.mark.parametrize(
    ("tool", "processes", "batch", "micro", "expected"),
    [
        ("alpaca-lora", 1, 128, 4, 128),
        ("alpaca-lora", 4, 128, 4, 128),  # the script divides the passes by the processes
        ("alpaca-lora", 1, 10, 4, 8),  # and drops what does not make a whole pass
        ("alpaca-lora", 3, 64, 4, 60),
        ("llm-pruner", 1, 64, 4, 64),
        ("llm-pruner", 2, 64, 4, 128),  # this one does not divide
    ],
)
def test_the_batch_is_what_the_script_makes_of_it(
    reader: Any, tool: str, processes: int, batch: int, micro: int, expected: int
) -> None:
    model = "--base_model m" if tool == "alpaca-lora" else "--prune_model m"
    program = {"alpaca-lora": "finetune.py", "llm-pruner": "post_training.py"}[tool]
    command = f"torchrun --nproc_per_node={processes} {program} {model} --batch_size {batch} --micro_batch_size {micro}"
    from loratory.config.foreign_file import read_foreign_run

    run = read_foreign_run([], command=command)
    assert (run.config.train.batch_size, run.config.train.micro_batch_size) == (expected, micro)
    assert ("batch_size" in reader.said(run)["approximated"]) == (expected not in {batch, batch * processes})


def test_the_recovery_script_field_by_field(reader: Any) -> None:
    from loratory.config.foreign_file import read_foreign_run

    command = (
        "torchrun --nproc_per_node=4 finetune_lora.py --pruned_model results/HGSP_2000/pruned_model.bin --lora_r 16"
    )
    run = read_foreign_run([], command=command)
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "results/HGSP_2000/pruned_model.bin",
        "data.train": "yahma/alpaca-cleaned",
        "data.val_size": 2000,
        "data.template": "alpaca",
        "data.cutoff_len": 256,
        "data.truncation": "truncate",
        "adapter.rank": 16,
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "adapter.targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"],
        "train.num_epochs": 2.0,
        "train.batch_size": 64,
        "train.micro_batch_size": 4,
        "train.learning_rate": 0.0001,
        "train.schedule": "linear",
        "train.warmup_ratio": 0.06,
        "train.eval_steps": 100,
        "train.save_steps": 200,
        "train.save_total_limit": 20,
        "run.name": "HGSP_2000_finetuned",
        "run.output_dir": "results",
    }


@pytest.mark.parametrize("tool", [ALPACA_LORA, LLM_PRUNER])
def test_every_default_has_a_rule(tool: Any) -> None:
    assert set(tool.defaults) <= set(tool.rules)
