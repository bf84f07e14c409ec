"""TRL's SFTTrainer: `… WORK [--tuned] RESULT`.

Without `--tuned` its defaults, save that bf16 is off, which this CPU emulates slowly. Tuned is the fastest setting
found for it on CPU: padding-free rows, no gradient checkpointing.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.contestants.callback import MeterCallback
from benchmarks.measure import Meter
from benchmarks.work import Work


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
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    meter = Meter()
    tuned = {"padding_free": True, "gradient_checkpointing": False, "max_length": None} if arguments.tuned else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
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
                train_sampling_strategy="sequential",
                **tuned,
            ),
            train_dataset=Dataset.from_list(work.read_rows()),
            processing_class=tokenizer,
            callbacks=[MeterCallback(meter, model)],
        )
        trainer.train()
    meter.finish(arguments.result, losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


if __name__ == "__main__":
    main()
