"""Contestant: the reward step of `loratory train` on ready pairs."""

import argparse
from pathlib import Path

import torch

from benchmarks.measure import Meter
from benchmarks.work import Work
from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.model import load_model
from loratory.model.task import ClassHead
from loratory.objective.reward import RewardObjective
from loratory.objective.row import Row, batch_of
from loratory.tree.classes import scored_sequence
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.scorers import make_scorer


def main() -> None:
    """Train and write the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--path", choices=["auto", "padded", "tree", "fused"], default="auto")
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    torch.set_num_threads(work.num_threads)
    torch.manual_seed(work.seed)
    keep_freed_memory()
    meter = Meter()
    loaded = load_model(ModelConfig(model_name_or_path=work.model), head=ClassHead((), work.seed))
    section = AdapterConfig(path=work.adapter)
    model = attach_adapter(loaded.model, section, seed=work.seed, new_modules=loaded.new_modules).model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=work.learning_rate, weight_decay=0.0)
    scorer, objective = make_scorer(model, path=arguments.path), RewardObjective()
    rows = []
    for each in work.read_rows():
        prompt = each["prompt_ids"]
        pair = (
            scored_sequence(prompt + each[name], prompt_length=len(prompt)) for name in ("chosen_ids", "rejected_ids")
        )
        rows.append(Row(tuple(pair), "", 1.0))
    meter.begin(model.parameters())
    for start in range(0, len(rows), work.batch_size):
        batch = rows[start : start + work.batch_size]
        loss_sum = 0.0
        for first in range(0, len(batch), work.micro_batch_size):
            loss = objective.loss(scorer, batch_of(batch[first : first + work.micro_batch_size]))
            (loss.sum / len(batch)).backward()
            loss_sum += float(loss.sum)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.end_step(loss_sum / len(batch))
    meter.finish(arguments.result)


if __name__ == "__main__":
    main()
