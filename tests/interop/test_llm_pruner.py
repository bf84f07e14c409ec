from pathlib import Path
from typing import Any

import pytest

from loratory.cli.recover import recovery_parser
from loratory.config import build_config
from loratory.errors import ConfigError
from loratory.interop.llm_pruner import RecoveryFlags, flags_from, output_folder, recovery_values

BIN = "results/HGSP_2000/pruned_model.bin"


def parsed(*tokens: str) -> RecoveryFlags:
    return flags_from(vars(recovery_parser().parse_args(["--pruned_model", BIN, *tokens])))


def test_documented_defaults() -> None:
    flags = parsed()
    assert flags == RecoveryFlags(pruned_model=BIN)
    config = build_config(recovery_values(flags))
    assert config.model.model_name_or_path == BIN
    assert config.data.train == "yahma/alpaca-cleaned"
    assert (config.data.val_size, config.data.cutoff_len, config.data.template) == (2000, 256, "alpaca")
    assert (config.data.train_on_inputs, config.data.add_eos_token, config.data.truncation) == (False, True, "truncate")
    assert (config.train.batch_size, config.train.micro_batch_size, config.train.num_epochs) == (64, 4, 2)
    assert (config.train.learning_rate, config.train.group_by_length) == (1e-4, False)
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (8, 16, 0.05)
    assert config.adapter.targets == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    assert (config.run.output_dir, config.run.name, config.run.trackers) == ("results", "HGSP_2000_finetuned", [])


@pytest.mark.parametrize(
    ("tokens", "field", "value"),
    [
        (["--data_path", "own.json"], "data.train", "own.json"),
        (["--val_set_size=0"], "data.val_size", 0),
        (["--val_set_size", "0.1"], "data.val_size", 0.1),
        (["--cutoff_len", "512"], "data.cutoff_len", 512),
        (["--prompt_template_name", "vigogne"], "data.template", "vigogne"),
        (["--batch_size", "8"], "train.batch_size", 8),
        (["--batch_size", "2", "--micro_batch_size", "4"], "train.micro_batch_size", 2),
        (["--num_epochs", "0.5"], "train.num_epochs", 0.5),
        (["--learning_rate", "3e-4"], "train.learning_rate", 3e-4),
        (["--lora_r", "4"], "adapter.rank", 4),
        (["--lora_alpha", "4"], "adapter.alpha", 4),
        (["--lora_dropout", "0"], "adapter.dropout", 0),
        (["--lora_target_modules", "[q_proj,v_proj]"], "adapter.targets", ["q_proj", "v_proj"]),
        (["--output_dir", "out/mine"], "run.name", "mine"),
        (["--output_dir", "out/mine/"], "run.output_dir", "out"),
        (["--train_on_inputs"], "data.train_on_inputs", True),
        (["--train_on_inputs", "True"], "data.train_on_inputs", True),
        (["--train_on_inputs=false"], "data.train_on_inputs", False),
        (["--add_eos_token"], "data.add_eos_token", True),
        (["--group_by_length"], "train.group_by_length", True),
        (["--wandb_project", ""], "run.trackers", []),
        (["--wandb_project", "lab"], "run.project", "lab"),
        (["--wandb_project", "lab"], "run.trackers", ["wandb"]),
    ],
)
def test_each_flag(tokens: list[str], field: str, value: Any) -> None:
    config = build_config(recovery_values(parsed(*tokens)))
    section, name = field.split(".")
    assert getattr(getattr(config, section), name) == value


def test_skip_evaluation_is_a_flag() -> None:
    assert parsed("--skip_evaluation").skip_evaluation
    assert not parsed().skip_evaluation


def test_an_own_template_goes_first(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    own = tmp_path / "templates" / "alpaca.json"
    own.write_text("{}")
    assert recovery_values(parsed(), folder=tmp_path)["data"]["template"] == str(own)
    assert recovery_values(parsed())["data"]["template"] == "alpaca"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("results/HGSP_2000/pruned_model.bin", "HGSP_2000"),
        ("prune_log/llama_prune/pytorch_model.bin", "llama_prune"),
        ("models/tiny.bin", "tiny"),
        ("models/smol-pruned", "smol-pruned"),
        ("owner/some-7b", "some-7b"),
    ],
)
def test_the_default_folder_carries_the_models_name(model: str, name: str) -> None:
    assert output_folder(RecoveryFlags(model)) == Path("results") / f"{name}_finetuned"


@pytest.mark.parametrize("given", ["out/mine/checkpoint-200", "out/mine"])
def test_a_checkpoint_names_its_run(given: str) -> None:
    flags = parsed("--resume_from_checkpoint", given)
    assert flags.is_resuming
    assert output_folder(flags) == Path("out/mine")
    assert output_folder(parsed("--resume_from_checkpoint", given, "--output_dir", "out/mine")) == Path("out/mine")
    with pytest.raises(ConfigError, match="resume_from_checkpoint"):
        output_folder(parsed("--resume_from_checkpoint", given, "--output_dir", "out/other"))


def test_resuming_without_a_path_takes_the_output_folder() -> None:
    flags = parsed("--resume_from_checkpoint", "--output_dir", "out/mine")
    assert flags.is_resuming
    assert output_folder(flags) == Path("out/mine")


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        recovery_parser().parse_args(["--pruned_model", BIN, "--lora_rank", "4"])
    assert stop.value.code == 2
    assert "--lora_rank" in capsys.readouterr().err
