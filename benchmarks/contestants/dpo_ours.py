"""loratory's DPO step on pairs of token ids: `… WORK [--path P] RESULT`."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.measure import Meter
from benchmarks.work import Work
from loratory.data.sequence import TokenSequence
from loratory.objective.preference import DpoObjective
from loratory.objective.row import Row, batch_of
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.scorers import make_scorer


def main() -> None:
    """Score the reference, then train `num_steps` steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--path", default="auto")
    parser.add_argument("--pairs-per-pass", type=int, default=4)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    keep_freed_memory()
    base = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=work.learning_rate, weight_decay=0.0, fused=True)
    scorer = make_scorer(model, path=arguments.path)
    objective = DpoObjective(loss="sigmoid", beta=0.1, label_smoothing=0.0, sft_weight=0.0)
    rows = [_row(row) for row in work.read_rows()]
    size = arguments.pairs_per_pass

    meter = Meter()
    meter.begin(model.parameters())
    with torch.no_grad():
        for start in range(0, len(rows), size):
            batch = batch_of(rows[start : start + size])
            nats_B2 = batch.tree.sum_by_sequence(scorer.logprobs(batch.tree)).double().view(-1, 2).numpy()
            rows[start : start + size] = [
                replace(row, facts={"reference_nats": nats}) for row, nats in zip(batch.rows, nats_B2, strict=True)
            ]
    meter.end_step()  # the reference counts as a step's time
    for step in range(work.num_steps):
        mine = rows[step * work.batch_size : (step + 1) * work.batch_size]
        total = 0.0
        for start in range(0, len(mine), size):
            loss = objective.loss(scorer, batch_of(mine[start : start + size]))
            (loss.sum / len(mine)).backward()
            total += float(loss.sum.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.end_step(total / len(mine))
    meter.finish(arguments.result)


def _row(row: dict[str, list[int]]) -> Row:
    return Row(tuple(_sequence(row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids")), "", 1.0)


def _sequence(prompt: list[int], answer: list[int]) -> TokenSequence:
    weights = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
    return TokenSequence(np.array(prompt + answer, dtype=np.int64), weights, len(prompt))


if __name__ == "__main__":
    main()
