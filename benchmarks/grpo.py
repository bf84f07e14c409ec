"""One GRPO update, and the rollout before it: every token once against the padded twin.

    python -m benchmarks.grpo outputs/demo/base_model

A policy with a fresh LoRA adapter answers prompts G times; the same answers are then learnt from on each scorer path,
in turn, in the same passes. Answers are drawn with a length of their own, so they are of unequal length as in training.
Losses and gradient norms are shown beside the times: they must agree.
"""

import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.work import ALPHA, DATA, RANK, TARGETS
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.reference import StartingPolicy
from loratory.objective.group_objective import GrpoObjective
from loratory.objective.judge import FunctionJudge
from loratory.objective.rollout import Rollout, RolloutSettings
from loratory.objective.rollout_objective import UpdatePlan
from loratory.objective.row import Row, batch_of
from loratory.objective.sampled import Policy
from loratory.tree.fused.memory import keep_freed_memory
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

PASS_TOKENS = 2048
SEED = 7


def policy_of(folder: Path) -> Policy:
    """A fresh adapter on the base, in evaluation mode."""
    torch.manual_seed(SEED)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scorer = make_scorer(model)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        template=bind_template("auto", tokenizer),
        scorer=scorer,
        reference=StartingPolicy(model, scorer, parameters={}, is_no_op=True),
        seed=SEED,
        passes=MicroBatching(None, PASS_TOKENS, shares_prefixes=True).cut,
        precision=contextlib.nullcontext,
        note=typer.echo,
    )


def prompt_rows(objective: GrpoObjective, policy: Policy, *, num: int) -> list[Row]:
    """Instructions of general data, the longest of the first rows: prompts of some length."""
    rows = json.loads(DATA["alpaca_en"].read_text())
    texts = sorted((f"{row['instruction']}\n{row['input']}".strip() for row in rows), key=len)[-8 * num :: 8][:num]
    made = []
    for line, text in enumerate(texts):
        record = Record((Turn("user", text),), Origin("alpaca_en", line + 1))
        made.append(Row(objective.sequences(record, policy.template), str(record.origin), 1.0, {}, {}))
    return made


def update(model: Any, objective: GrpoObjective, scorer: Scorer, passes: list[list[Row]]) -> tuple[float, float, float]:
    """Seconds, loss and gradient norm of one update without the optimizer."""
    model.zero_grad(set_to_none=True)
    count = sum(row.count for rows in passes for row in rows)
    start_s = time.perf_counter()
    batches = [batch_of(rows) for rows in passes]
    total = 0.0
    with scorer.one_root([batch.tree for batch in batches]):
        for batch in batches:
            loss = objective.loss(scorer, batch)
            (loss.sum / count).backward()  # type: ignore[no-untyped-call]
            total += loss.sum.item()
    seconds = time.perf_counter() - start_s
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return seconds, total / count, float(torch.nn.utils.get_total_norm(gradients))


def main(
    model: Annotated[Path, typer.Argument(help="Folder of the base model.")],
    prompts: Annotated[int, typer.Option(help="Prompts of the rollout.")] = 4,
    samples: Annotated[int, typer.Option(help="Answers to each.")] = 8,
    new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 24,
    repeats: Annotated[int, typer.Option(help="Timed updates of each path.")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Print rollout rate and update times as a table."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    policy = policy_of(model)
    judge = FunctionJudge(lambda prompt, answer, label: float(len(answer) % 17))
    rollout = Rollout(RolloutSettings(samples, new_tokens), judge)
    objective = GrpoObjective(rollout, UpdatePlan(prompts=prompts, epochs=1, mini_batches=1))
    rows = prompt_rows(objective, policy, num=prompts)
    objective.experience(policy, rows[:1], numbers=[prompts])  # warm up
    start_s = time.perf_counter()
    seen = objective.experience(policy, rows, numbers=range(prompts))
    rollout_s = time.perf_counter() - start_s
    answers = [row for part in objective.settle([r for g in seen.answers for r in g]).answers for row in part]
    answers = list(objective.update_rows(answers, 0, seed=SEED))
    new = sum(row.sequences[0].num_supervised for row in answers)
    lengths = [len(row.sequences[0]) - row.sequences[0].num_supervised for row in answers]
    typer.echo(
        f"rollout: {prompts} prompts of {np.mean(lengths):.0f} tokens x {samples} answers, {new} new tokens in "
        f"{rollout_s:.2f} s: {new / rollout_s:.0f} tokens/s"
    )
    policy.model.train()
    passes = [list(part) for part in policy.passes(answers)]
    paths = ("fused", "padded")
    scorers = {path: make_scorer(policy.model, path=path) for path in paths}
    found: dict[str, list[tuple[float, float, float]]] = {path: [] for path in paths}
    update(policy.model, objective, scorers["fused"], passes)  # warm up
    for _ in range(repeats):
        for path in paths:
            found[path].append(update(policy.model, objective, scorers[path], passes))
    padded_s = statistics.median(seconds for seconds, _, _ in found["padded"])
    typer.echo("| path | s per update | padded twin takes | loss | gradient norm |\n|---|---|---|---|---|")
    for path in paths:
        seconds = statistics.median(each[0] for each in found[path])
        _, loss, norm = found[path][-1]
        typer.echo(f"| {path} | {seconds:.2f} | {padded_s / seconds:.2f}x | {loss:.7f} | {norm:.6f} |")


if __name__ == "__main__":
    typer.run(main)
