"""transformers' Trainer with PEFT, as alpaca-lora does it: `… WORK [--group-by-length] RESULT`."""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from benchmarks.contestants.trainer import MeterCallback, logged_losses, steady_settings, tokenizer_of
from benchmarks.measure import Meter
from benchmarks.work import Work


def main() -> None:
    """Train `num_steps` steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--group-by-length", action="store_true", help="its own batches: rows of similar length")
    parser.add_argument("--sort-within-step", action="store_true", help="the same batches, sorted by length inside")
    parser.add_argument("--pad-to", type=int, default=8, help="alpaca-lora pads to a multiple of 8")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)

    rows = work.read_rows()
    if arguments.sort_within_step:
        rows = sort_within_steps(rows, work.batch_size)
    tokenizer = tokenizer_of(work)
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                **steady_settings(work, folder),
                train_sampling_strategy="group_by_length" if arguments.group_by_length else "sequential",
            ),
            train_dataset=Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(
                tokenizer, pad_to_multiple_of=arguments.pad_to, return_tensors="pt", padding=True
            ),
            callbacks=[MeterCallback(meter, model)],
        )
        trainer.train()
    meter.finish(arguments.result, losses=logged_losses(trainer))


def sort_within_steps(rows: list[dict[str, list[int]]], batch_size: int) -> list[dict[str, list[int]]]:
    """The same optimizer batches, rows of similar length side by side."""
    steps = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [row for step in steps for row in sorted(step, key=lambda row: len(row["input_ids"]))]


if __name__ == "__main__":
    main()
