"""loratory's step on pre-tokenised rows, with every lever switchable: `… WORK --path tree --no-share RESULT`."""

import argparse
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.measure import Meter
from benchmarks.work import Work
from loratory.data.sequence import TokenSequence
from loratory.tree.build import build_tree
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.scorers import make_scorer


def main() -> None:
    """Train `num_steps` steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--path", default="auto")
    parser.add_argument("--no-share", action="store_true", help="every row is a tree of its own")
    parser.add_argument("--micro-batch-size", type=int, help="rows per tree; default: the whole optimizer batch")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    torch.manual_seed(work.seed)
    keep_freed_memory()

    sequences = [_sequence(row["input_ids"], row["labels"]) for row in work.read_rows()]
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work.learning_rate, weight_decay=0.0, fused=True)
    scorer = make_scorer(model, path=arguments.path)
    micro_batch_size = arguments.micro_batch_size or work.batch_size

    num_unique = num_labels = num_path = 0
    meter = Meter()
    meter.begin(model.parameters())
    for step in range(work.num_steps):
        batch = sequences[step * work.batch_size : (step + 1) * work.batch_size]
        count = sum(sequence.weight_sum for sequence in batch)
        total = 0.0
        passes = [batch[start : start + micro_batch_size] for start in range(0, len(batch), micro_batch_size)]
        trees = [build_tree(rows, share=not arguments.no_share) for rows in passes]
        with scorer.one_root(trees):
            for tree in trees:
                loss = scorer.nll(tree).sum_nats
                (loss / count).backward()
                total += float(loss.detach())
                num_unique += tree.num_tokens
                num_labels += len(tree.targets_N)
                num_path += tree.num_path_tokens
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.end_step(total / count)
    per_step = {"unique_tokens": num_unique, "labels": num_labels, "path_tokens": num_path}
    meter.finish(arguments.result, notes={name: value / work.num_steps for name, value in per_step.items()})


def _sequence(token_ids: list[int], labels: list[int]) -> TokenSequence:
    weights = np.array([label != -100 for label in labels], dtype=np.float32)
    return TokenSequence(np.array(token_ids, dtype=np.int64), weights, int(weights.argmax()))


if __name__ == "__main__":
    main()
