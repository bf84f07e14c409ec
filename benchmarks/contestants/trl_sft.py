"""TRL's SFTTrainer: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this CPU emulates slowly. Tuned is the fastest setting
found for it on CPU: padding-free rows, no gradient checkpointing.
"""

import tempfile

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from benchmarks.contestants.trainer import (
    MeterCallback,
    contestant_flags,
    logged_losses,
    steady_settings,
    tokenizer_of,
)
from benchmarks.measure import Meter
from benchmarks.work import Work


def main() -> None:
    """Train `num_steps` steps."""
    arguments = contestant_flags().parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    meter = Meter()
    tuned = {"padding_free": True, "gradient_checkpointing": False, "max_length": None} if arguments.tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**steady_settings(work, folder), train_sampling_strategy="sequential", **tuned),
            train_dataset=Dataset.from_list(work.read_rows()),
            processing_class=tokenizer_of(work),
            callbacks=[MeterCallback(meter, model)],
        )
        trainer.train()
    meter.finish(arguments.result, losses=logged_losses(trainer))


if __name__ == "__main__":
    main()
