"""Run directories written by hand, for tests of what only reads their files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"


def forge_run(
    path: Path,
    answers: Sequence[str] | None,
    labels: Sequence[str],
    *,
    seed: int = 1,
    rank: int = 8,
    base: Sequence[str] | None = None,
    questions: Sequence[str] | None = None,
    is_finished: bool = True,
    losses: Sequence[float] = (3.0, 2.0, 1.0),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run with these answers to the test rows; None leaves the predictions out."""
    path.mkdir(parents=True)
    sections = {
        "adapter": {"rank": rank},
        "train": {"seed": seed},
        "model": {"model_name_or_path": "tiny"},
        "data": {"train": "train.json", "test": "data/test.json"},
        "run": {"name": path.name},
    }
    for section, values in (config or {}).items():
        sections[section] = {**sections.get(section, {}), **values}
    (path / "config.yaml").write_text(json.dumps(sections))
    provenance = {
        "run_id": path.name,
        "base_identity": "b" * 64,
        "data": {"train": "d" * 64},
        "trainable_parameters": 1000 * rank,
        "versions": {"torch": "1"},
        "threads": 1,
    }
    (path / "provenance.json").write_text(json.dumps(provenance))
    lines = [{"step": i + 1, "loss": loss, "memory_mib": 100.0} for i, loss in enumerate(losses)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        (path / "final_model").mkdir()
    asked = questions or [f"Question {i} of {label}?" for i, label in enumerate(labels)]
    for name, given in (("test", answers), ("test-base", base)):
        if given is not None:
            write_answers(path / "predictions" / name, given, labels, asked)
    return path


def write_answers(folder: Path, answers: Sequence[str], labels: Sequence[str], questions: Sequence[str]) -> None:
    """A predictions file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": f"{SYSTEM}<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n", "label": t, "predict": a}
        for a, t, q in zip(answers, labels, questions, strict=True)
    ]
    (folder / "generated_predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_faults(labels: Sequence[str], wrong: range | Sequence[int]) -> list[str]:
    """The labels, wrong in some rows."""
    return ["wrong" if i in set(wrong) else label for i, label in enumerate(labels)]
