"""TRL's RewardTrainer: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this kind of CPU emulates. Tuned is the fastest setting
found for it on a CPU: no gradient checkpointing.
"""

import tempfile

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from benchmarks.contestants.trainer import (
    MeterCallback,
    contestant_flags,
    logged_losses,
    steady_settings,
    tokenizer_of,
)
from benchmarks.measure import Meter
from benchmarks.work import Work


class InOrder(RewardTrainer):
    """Takes the pairs as they stand."""

    def _get_train_sampler(self, dataset: Dataset | None = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset if dataset is None else dataset)


def main() -> None:
    """Train `num_steps` steps."""
    arguments = contestant_flags().parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    tokenizer = tokenizer_of(work)
    base = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    rows = [
        {name: row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")} for row in work.read_rows()
    ]
    meter = Meter()
    tuned = {"gradient_checkpointing": False, "max_length": None} if arguments.tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=model,
            args=RewardConfig(**steady_settings(work, folder), **tuned),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[MeterCallback(meter, model)],
        )
        trainer.train()
    meter.finish(arguments.result, losses=logged_losses(trainer))


if __name__ == "__main__":
    main()
