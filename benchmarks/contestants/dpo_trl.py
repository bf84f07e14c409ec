"""TRL's DPOTrainer on pairs of token ids: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this CPU emulates slowly, and that checkpointing is the
reentrant kind, because the other one fails here (recomputed tensors differ). Tuned: no gradient checkpointing,
reference log-probabilities in front (`padding_free` is switched off in this version of TRL).
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
from datasets import Dataset
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.contestants.callback import MeterCallback
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
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    tuned = (
        {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
        if arguments.tuned
        else {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    )
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model=base,
            args=DPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=work.micro_batch_size,
                gradient_accumulation_steps=work.batch_size // work.micro_batch_size,
                max_steps=work.num_steps,
                max_length=None,
                learning_rate=work.learning_rate,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=1.0,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=work.seed,
                train_sampling_strategy="sequential",
                beta=0.1,
                **tuned,
            ),
            train_dataset=Dataset.from_list(work.read_rows()),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig.from_pretrained(work.adapter),
        )
        start = load_file(Path(work.adapter) / "adapter_model.safetensors")
        set_peft_model_state_dict(trainer.model, start)
        trainer.add_callback(MeterCallback(meter, trainer.model))
        trainer.train()
    notes = {"reference_seconds": trainer.reference_seconds}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    meter.finish(arguments.result, losses=losses, notes=notes)


if __name__ == "__main__":
    main()
