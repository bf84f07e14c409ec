"""The Trainer's settings, against the installed transformers."""

import dataclasses
from typing import Any

import pytest
import transformers

from loratory.interop.trainer_settings import TRAINER_DEFAULTS, TRAINER_RULES

FIELDS = {field.name: field for field in dataclasses.fields(transformers.Seq2SeqTrainingArguments)}


def test_every_setting_of_the_installed_trainer_has_a_rule() -> None:
    assert set(FIELDS) <= set(TRAINER_RULES)


def test_the_defaults_are_those_of_the_installed_trainer() -> None:
    installed = {name: FIELDS[name].default for name in TRAINER_DEFAULTS}
    assert {name: getattr(value, "value", value) for name, value in installed.items()} == dict(TRAINER_DEFAULTS)


@pytest.mark.parametrize("processes", [1, 3])
def test_the_batch_is_rows_times_passes_times_processes(reader: Any, processes: int) -> None:
    from loratory.config.foreign_file import read_foreign_run

    command = "x.py --model_name_or_path m --dataset d --per_device_train_batch_size 2 --gradient_accumulation_steps 5"
    train = read_foreign_run([], tool="llamafactory", command=command, processes=processes).config.train
    assert (train.batch_size, train.micro_batch_size) == (10 * processes, 2)


@pytest.mark.parametrize("flags", ["--per_device_train_batch_size 0", "--gradient_accumulation_steps 1.5"])
def test_a_batch_that_is_none(reader: Any, flags: str) -> None:
    run = reader.settings("llamafactory", f"--model_name_or_path m --dataset d {flags}")
    assert "per_device_train_batch_size" in reader.said(run)["not honoured"]


@pytest.mark.parametrize(
    ("flags", "save", "evaluate", "said"),
    [
        ("", 500, None, set()),
        ("--save_strategy epoch", None, None, set()),
        ("--save_strategy no", None, None, {"save_strategy"}),
        ("--save_strategy best", None, None, {"save_strategy"}),
        ("--save_steps 0.1", None, None, {"save_steps"}),
        ("--eval_strategy steps --logging_steps 7 --val_size 5", 500, 7, set()),
        ("--evaluation_strategy steps --eval_steps 9 --val_size 5", 500, 9, set()),
        ("--val_size 5", 500, None, {"eval_strategy"}),
    ],
)
def test_intervals(reader: Any, flags: str, save: int | None, evaluate: int | None, said: set[str]) -> None:
    run = reader.settings("llamafactory", f"--model_name_or_path m --dataset d {flags}")
    assert (run.config.train.save_steps, run.config.train.eval_steps) == (save, evaluate)
    always = {"cutoff_len", "save_total_limit"}
    assert reader.said(run)["approximated"] - always == said
