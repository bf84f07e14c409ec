"""Scoring a predictions file and writing the scores with their definitions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from loratory.evaluation.text import TEXT_METRICS, Score, score_texts, scores_to_json
from loratory.infer.predict import read_predictions
from loratory.run import write_text


def score_file(
    path: Path, *, long_answer_chars: int = 10, metrics: Sequence[str] = TEXT_METRICS, seed: int = 0
) -> dict[str, Score]:
    """Score a `generated_predictions.jsonl`, ours or LLaMA-Factory's.

    Raises:
        DataError: When the file is missing, malformed or empty.
        MissingExtraError: When BLEU or ROUGE is asked for and its libraries are not installed.
    """
    predictions = read_predictions(path)
    return score_texts(
        [row.predict for row in predictions],
        [row.label for row in predictions],
        long_answer_chars=long_answer_chars,
        metrics=metrics,
        seed=seed,
    )


def write_scores(path: Path, scores: Mapping[str, Score]) -> None:
    """Write scores, their intervals, row counts and definitions as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(scores_to_json(scores), indent=2, ensure_ascii=False) + "\n")
