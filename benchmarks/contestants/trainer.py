"""What the contestants built on transformers' Trainer have in common: their flags, settings, tokenizer and meter."""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Trainer, TrainerCallback

from benchmarks.measure import Meter
from benchmarks.work import Work


def contestant_flags() -> argparse.ArgumentParser:
    """The parser of `… WORK [--tuned] RESULT`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--tuned", action="store_true", help="the fastest setting found, not the defaults")
    parser.add_argument("result", type=Path)
    return parser


def steady_settings(work: Work, folder: str) -> dict[str, Any]:
    """TrainingArguments of the same steps for everyone, without anything that is not training."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": work.micro_batch_size,
        "gradient_accumulation_steps": work.batch_size // work.micro_batch_size,
        "max_steps": work.num_steps,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": work.seed,
    }


def tokenizer_of(work: Work) -> PreTrainedTokenizerBase:
    """The model's tokenizer; its end token pads where it has none for that."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(work.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def logged_losses(trainer: Trainer) -> list[float]:
    """The loss of each step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class MeterCallback(TrainerCallback):
    """Starts the meter before the first step and ticks it after each."""

    def __init__(self, meter: Meter, model: torch.nn.Module) -> None:
        self._meter = meter
        self._model = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is prepared, nothing has run."""
        self._meter.begin(self._model.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step is done."""
        self._meter.end_step()
