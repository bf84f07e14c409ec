"""TRL's RewardTrainer: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this kind of CPU emulates. Tuned is the fastest setting
found for it on a CPU: no gradient checkpointing.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from benchmarks.contestants.callback import MeterCallback
from benchmarks.measure import Meter
from benchmarks.work import Work


class InOrder(RewardTrainer):
    """Takes the pairs as they stand."""

    def _get_train_sampler(self, dataset: Dataset | None = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset if dataset is None else dataset)


def main() -> None:
    """Train `num_steps` steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = AutoModelForSequenceClassification.from_pretrained(work.model, num_labels=1, dtype=torch.float32)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    rows = [{"chosen_ids": row["chosen"], "rejected_ids": row["rejected"]} for row in work.read_rows()]
    meter = Meter()
    tuned = {"gradient_checkpointing": False, "max_length": None} if arguments.tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=model,
            args=RewardConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=work.micro_batch_size,
                gradient_accumulation_steps=work.batch_size // work.micro_batch_size,
                max_steps=work.num_steps,
                learning_rate=work.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=work.seed,
                **tuned,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[MeterCallback(meter, model)],
        )
        trainer.train()
    meter.finish(arguments.result, losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


if __name__ == "__main__":
    main()
