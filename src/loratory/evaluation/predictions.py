"""Scoring a predictions file and writing the scores with their definitions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loratory.errors import DataError
from loratory.evaluation.answer_metrics.classes import ClassTable, class_rule, class_table
from loratory.evaluation.text import Score, score_texts, scores_to_json
from loratory.infer.predict import read_predictions
from loratory.run import write_text


@dataclass(frozen=True, slots=True)
class FileScores:
    """What a predictions file scores.

    Attributes:
        num_rows: Its rows.
        scores: By name.
        classes: Scores of each class, for coded answers.
    """

    num_rows: int
    scores: Mapping[str, Score]
    classes: ClassTable | None


def score_file(
    path: Path,
    *,
    long_answer_chars: int = 10,
    metrics: Sequence[str] | None = None,
    class_by: str | None = None,
    seed: int = 0,
) -> FileScores:
    """Score a `generated_predictions.jsonl`, ours or LLaMA-Factory's.

    Args:
        path: The file.
        long_answer_chars: A label is long above this many characters.
        metrics: Names or ids; None takes those that fit the labels.
        class_by: What makes a class of an answer; None decides by the labels.
        seed: Seed of the bootstrap.

    Raises:
        DataError: When the file is missing, malformed or empty, or rows have no label.
        ConfigError: When a metric or the class rule is unknown.
        MissingExtraError: When a metric's library is not installed.
    """
    rows = read_predictions(path)
    without = [number for number, row in enumerate(rows, start=1) if not row.label.strip()]
    if without:
        raise DataError(
            f"{path}: {len(without)} of {len(rows)} rows have no label to compare with, first row {without[0]}; "
            "predict rows that have answers"
        )
    predictions, labels = [row.predict for row in rows], [row.label for row in rows]
    scores = score_texts(
        predictions, labels, long_answer_chars=long_answer_chars, metrics=metrics, class_by=class_by, seed=seed
    )
    rule = class_by or class_rule(labels)
    return FileScores(len(rows), scores, None if rule is None else class_table(predictions, labels, rule))


def file_scores_to_json(path: Path, found: FileScores) -> dict[str, Any]:
    """Scores, definitions and class table as plain JSON values.

    `predict_results` holds the plain values under the keys of LLaMA-Factory's file of that name.
    """
    return {
        "predictions": str(path),
        "num_rows": found.num_rows,
        "scores": scores_to_json(found.scores),
        "classes": None if found.classes is None else asdict(found.classes),
        "predict_results": {f"predict_{name}": score.value for name, score in found.scores.items()},
    }


def write_scores(path: Path, scores: Mapping[str, Score]) -> None:
    """Write scores, their intervals, row counts and definitions as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(scores_to_json(scores), indent=2, ensure_ascii=False) + "\n")
