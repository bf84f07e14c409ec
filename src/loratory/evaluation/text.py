"""Text metrics of predicted answers: one number with its error bar, row count and definition each.

Values are percent. A row's value is computed alone and the score is the plain mean over rows, so that paired
comparisons and intervals need nothing but the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.errors import ConfigError, DataError, suggest
from loratory.evaluation.bootstrap import bootstrap_interval
from loratory.evaluation.similarity import SimilarityScorer

TEXT_METRICS = ("exact_match", "exact_match_long", "bleu-4", "rouge-1", "rouge-2", "rouge-l")
_SIMILARITY_METRICS = TEXT_METRICS[2:]
_DEFINITIONS = {
    "exact_match": "percent of rows whose prediction equals the label after outer whitespace is stripped from both",
    "exact_match_long": "exact_match over rows whose stripped label is longer than {long_answer_chars} characters",
    "bleu-4": "character-level BLEU-4 (nltk sentence_bleu, one reference, smoothing method3), percent, mean over rows",
    "rouge-1": "F1 of distinct jieba words (rouge_chinese), percent, mean over rows",
    "rouge-2": "F1 of distinct jieba word pairs (rouge_chinese), percent, mean over rows",
    "rouge-l": "F1 by longest common subsequence of jieba words (rouge_chinese), percent, mean over rows",
}


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value over a set of rows.

    Attributes:
        value: Mean over the rows, percent.
        n: Rows that went into it.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        definition: What was measured, in words.
    """

    value: float
    n: int
    low: float
    high: float
    definition: str


def is_exact_match(prediction: str, label: str) -> bool:
    """Whether the texts are equal after stripping outer whitespace."""
    return prediction.strip() == label.strip()


def score_rows(
    predictions: Sequence[str],
    labels: Sequence[str],
    *,
    long_answer_chars: int = 10,
    metrics: Sequence[str] = TEXT_METRICS,
) -> dict[str, npt.NDArray[np.float64]]:
    """Each metric's value per row, percent, [N]; rows that a metric leaves out are NaN.

    Raises:
        DataError: When there are no rows, or the numbers of predictions and labels differ.
        ConfigError: When a metric's name is unknown.
        MissingExtraError: When BLEU or ROUGE is asked for and its libraries are not installed.
    """
    if len(predictions) != len(labels):
        raise DataError(f"{len(predictions)} predictions but {len(labels)} labels; each row needs one of both")
    if not labels:
        raise DataError("there are no predictions to score; at least one row is needed")
    faults = [
        f"metrics: unknown metric '{name}'; known: {', '.join(TEXT_METRICS)}.{suggest(name, TEXT_METRICS)}"
        for name in metrics
        if name not in TEXT_METRICS
    ]
    if faults:
        raise ConfigError(faults)
    rows: dict[str, npt.NDArray[np.float64]] = {}
    exact = np.array([100.0 * is_exact_match(p, t) for p, t in zip(predictions, labels, strict=True)])
    is_long = np.array([len(label.strip()) > long_answer_chars for label in labels])
    rows["exact_match"] = exact
    rows["exact_match_long"] = np.where(is_long, exact, np.nan)
    if any(name in _SIMILARITY_METRICS for name in metrics):
        scorer = SimilarityScorer()
        similarities = [scorer.score(p, t) for p, t in zip(predictions, labels, strict=True)]
        for name in _SIMILARITY_METRICS:
            field = name.replace("-", "_")
            rows[name] = np.array([getattr(similarity, field) for similarity in similarities])
    return {name: rows[name] for name in metrics}


def score_texts(
    predictions: Sequence[str],
    labels: Sequence[str],
    *,
    long_answer_chars: int = 10,
    metrics: Sequence[str] = TEXT_METRICS,
    seed: int = 0,
) -> dict[str, Score]:
    """Score predicted answers against their labels.

    Args:
        predictions: Predicted answers, as generated.
        labels: Expected answers, in the same order.
        long_answer_chars: A label is long above this many characters (`exact_match_long`).
        metrics: Names out of `TEXT_METRICS`.
        seed: Seed of the bootstrap.

    Returns:
        Scores by name. A metric that no row takes part in (no long label) is absent.

    Raises:
        DataError: When there are no rows, or the numbers of predictions and labels differ.
        ConfigError: When a metric's name is unknown.
        MissingExtraError: When BLEU or ROUGE is asked for and its libraries are not installed.
    """
    rows = score_rows(predictions, labels, long_answer_chars=long_answer_chars, metrics=metrics)
    scores: dict[str, Score] = {}
    for name, row_values in rows.items():
        values = row_values[~np.isnan(row_values)]
        if len(values) == 0:
            continue
        low, high = bootstrap_interval(values, seed=seed)
        definition = _DEFINITIONS[name].format(long_answer_chars=long_answer_chars)
        scores[name] = Score(value=float(values.mean()), n=len(values), low=low, high=high, definition=definition)
    return scores


def scores_to_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as plain JSON values, definitions included."""
    return {name: asdict(score) for name, score in scores.items()}
