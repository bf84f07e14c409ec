"""Prediction of a finished run: our generation against transformers' `generate`, and label scoring against our own.

    python -m benchmarks.predict outputs/demo/telecom --rows 64
    python -m benchmarks.predict outputs/banking77 --rows 100 --labels

All contestants have the same weights (the adapter merged in memory) and the same prompts; answers are compared token
for token. Rates count rows, prefill included.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from loratory.cli.finished_run import open_run, open_run_session
from loratory.data.reader import read_records
from loratory.infer.label_scoring import choose_labels
from loratory.infer.label_set import bind_labels, closed_labels
from loratory.infer.session import Session
from loratory.tree.eligibility import base_of

Answers = list[list[int]]


def by_transformers(session: Session, prompts: Sequence[Sequence[int]], *, batch: int, new_tokens: int) -> Answers:
    """Greedy `generate` on left-padded batches of prompts sorted by length, cut at the stop token."""
    stops = list(session.template.stop_token_ids)
    model = base_of(session.model)
    answers: Answers = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts[row]) for row in rows)
        tokens = torch.tensor([[stops[0]] * (width - len(prompts[row])) + list(prompts[row]) for row in rows])
        mask = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows])
        out = model.generate(
            tokens, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, eos_token_id=stops,
            pad_token_id=stops[0],
        )  # fmt: skip
        for row, ids in zip(rows, out[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
            answers[row] = ids[:end]
    return answers


def timed(run: Callable[[], Answers]) -> tuple[float, Answers]:
    """Seconds and result."""
    start_s = time.perf_counter()
    result = run()
    return time.perf_counter() - start_s, result


def main(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    rows: Annotated[int, typer.Option(help="Test rows.")] = 64,
    single_rows: Annotated[int, typer.Option(help="Of them for batch 1.")] = 24,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    labels: Annotated[bool, typer.Option("--labels", help="Label scoring against our own generation.")] = False,
    hf_batches: Annotated[str, typer.Option(help="Batches of transformers' generate.")] = "8,16,32,64",
) -> None:
    """Print rows per second of each contestant."""
    torch.set_num_threads(threads)
    directory, config = open_run(run)
    section = config.data
    assert section.test is not None
    session = open_run_session(directory, config, base=False, force_template=False, trust_remote_code=False)
    reading = read_records(
        section.test, format=section.format, columns=section.columns, system=section.system, max_bad_rows=0
    )
    records = reading.records[:: max(1, len(reading.records) // rows)][:rows]
    prompts = [session.template.generation_prompt(record) for record in records]
    new_tokens = config.predict.max_new_tokens

    def ours(batch: int | None) -> Answers:
        return session.generate(prompts, max_new_tokens=new_tokens, batch_size=batch)

    session.generate(prompts[:2], max_new_tokens=2)
    answers: Answers | None = None
    for batch in (16, 64, None):
        seconds, answers = timed(lambda batch=batch: ours(batch))  # type: ignore[misc]
        print(f"ours, batch {batch or 'auto':>4}: {len(prompts) / seconds:6.2f} rows/s", flush=True)
    assert answers is not None
    if labels:
        found = closed_labels(record.answer for record in reading.records)
        assert found is not None
        bound = bind_labels(found, session.template, records[0])
        for batch in (16, 64, None):
            start_s = time.perf_counter()
            choices = choose_labels(session.model, prompts, bound, batch_size=batch)
            seconds = time.perf_counter() - start_s
            agree = sum(
                [*answer, session.template.stop_token_ids[0]] == list(bound.token_ids[choice.label])
                for answer, choice in zip(answers, choices, strict=True)
            )
            rate = len(prompts) / seconds
            print(
                f"labels, batch {batch or 'auto':>4}: {rate:6.2f} rows/s; greedy agrees on {agree} of {len(prompts)}",
                flush=True,
            )
        return
    some = prompts[:single_rows]
    seconds, single = timed(lambda: by_transformers(session, some, batch=1, new_tokens=new_tokens))
    same = sum(a == b for a, b in zip(single, answers, strict=False))
    print(f"transformers, batch   1: {len(some) / seconds:6.2f} rows/s; same answers {same} of {len(some)}", flush=True)
    for batch in map(int, hf_batches.split(",")):
        seconds, other = timed(
            lambda batch=batch: by_transformers(session, prompts, batch=batch, new_tokens=new_tokens)
        )  # type: ignore[misc]
        same = sum(a == b for a, b in zip(other, answers, strict=True))
        rate = len(prompts) / seconds
        print(f"transformers, batch {batch:3}: {rate:6.2f} rows/s; same answers {same} of {len(prompts)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
