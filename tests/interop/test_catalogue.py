"""Whose settings they are."""

import pytest

from loratory.errors import ConfigError
from loratory.interop.catalogue import find_tool, program_tool, recognise


@pytest.mark.parametrize(
    ("keys", "tool"),
    [
        (["model_name_or_path", "stage", "template", "cutoff_len"], "llamafactory"),
        (["base_model", "micro_batch_size", "sequence_len", "adapter"], "axolotl"),
        (["base_model", "prune_model", "cutoff_len"], "llm-pruner"),
        (["model_name_or_path", "dataset_name", "use_peft_lora", "splits"], "peft-sft"),
        (["model_name_or_path", "dataset_name", "use_peft", "assistant_only_loss"], "trl-sft"),
        (["model_name_or_path", "dataset_name", "num_generations"], "trl-grpo"),
        (["peft_type", "r", "lora_alpha"], "peft"),
    ],
)
def test_recognised_by_most_settings(keys: list[str], tool: str) -> None:
    assert recognise(keys, "x").name == tool


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["model_name_or_path", "learning_rate"], ["llamafactory", "trl-sft", "peft-sft"]),
        (["base_model", "lora_r", "data_path"], ["alpaca-lora", "llm-pruner"]),
        (["model_name_or_path", "dataset_name", "use_peft"], ["trl-sft", "trl-dpo"]),
    ],
)
def test_ambiguous_settings_name_the_candidates(keys: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"could be of .* or .*--as") as caught:
        recognise(keys, "x.yaml")
    assert all(name in str(caught.value) for name in named)


def test_settings_of_nobody() -> None:
    with pytest.raises(ConfigError, match="no known tool has any of the settings nonsense"):
        recognise(["nonsense"], "x.yaml")


@pytest.mark.parametrize(
    ("program", "words", "tool"),
    [
        ("finetune.py", [], "alpaca-lora"),
        ("post_training.py", [], "llm-pruner"),
        ("finetune_lora.py", [], "finetune-lora"),
        ("llamafactory-cli", ["train"], "llamafactory"),
        ("axolotl.cli.train", [], "axolotl"),
        ("trl", ["dpo"], "trl-dpo"),
        ("trl", ["env"], None),
        ("train.py", [], None),
        ("run.py", [], None),
    ],
)
def test_programs(program: str, words: list[str], tool: str | None) -> None:
    found = program_tool(program, words)
    assert (found.name if found else None) == tool


def test_names() -> None:
    assert find_tool("axolotl").name == "axolotl"
    with pytest.raises(ConfigError, match="Did you mean 'llamafactory'"):
        find_tool("llama-factory")
