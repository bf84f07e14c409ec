"""TRL's DPOTrainer on pairs of token ids: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this CPU emulates slowly, and that checkpointing is the
reentrant kind, because the other one fails here (recomputed tensors differ). Tuned: no gradient checkpointing,
reference log-probabilities in front (`padding_free` is switched off in this version of TRL).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
from datasets import Dataset
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from benchmarks.contestants.trainer import (
    MeterCallback,
    contestant_flags,
    logged_losses,
    steady_settings,
    tokenizer_of,
)
from benchmarks.measure import Meter
from benchmarks.work import Work


class TimedTrainer(DPOTrainer):
    """Knows how long the reference took, and takes rows of token ids as they are."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *arguments: Any) -> Dataset:
        start_s = time.perf_counter()
        dataset = super()._precompute_ref_logps(*arguments)
        self.reference_seconds += time.perf_counter() - start_s
        return dataset


def main() -> None:
    """Train `num_steps` steps."""
    arguments = contestant_flags().parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    own = (
        {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
        if arguments.tuned
        else {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    )
    own |= {"max_length": None, "beta": 0.1, "train_sampling_strategy": "sequential"}
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model=base,
            args=DPOConfig(**steady_settings(work, folder), **own),
            train_dataset=Dataset.from_list(work.read_rows()),
            processing_class=tokenizer_of(work),
            peft_config=peft.LoraConfig.from_pretrained(work.adapter),
        )
        start = load_file(Path(work.adapter) / "adapter_model.safetensors")
        set_peft_model_state_dict(trainer.model, start)
        trainer.add_callback(MeterCallback(meter, trainer.model))
        trainer.train()
    notes = {"reference_seconds": trainer.reference_seconds}
    meter.finish(arguments.result, losses=logged_losses(trainer), notes=notes)


if __name__ == "__main__":
    main()
