"""Text metrics of predicted answers: one number with its error bar, row count and definition each.

Values are percent. Metrics are made of statistics of single rows, so that intervals and paired comparisons need
nothing but the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.errors import ConfigError, DataError
from loratory.evaluation.answer_metrics.family import Definition, Statistics
from loratory.evaluation.answer_metrics.match import is_exact_match
from loratory.evaluation.answer_metrics.registry import families, fitting_metrics, resolve_metrics
from loratory.evaluation.bootstrap import bootstrap_statistic

__all__ = ["TEXT_METRICS", "Score", "is_exact_match", "score_rows", "score_texts", "scores_to_json"]

TEXT_METRICS = ("exact_match", "exact_match_long", "bleu-4", "rouge-1", "rouge-2", "rouge-l")


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value over a set of rows.

    Attributes:
        value: Over the rows, percent.
        n: Rows that went into it.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        definition: What was measured, in words.
        id: Name with what defines the number, such as `bleu-4@nltk-char-method3`; equal ids are comparable.
    """

    value: float
    n: int
    low: float
    high: float
    definition: str
    id: str


def score_rows(
    predictions: Sequence[str],
    labels: Sequence[str],
    *,
    long_answer_chars: int = 10,
    metrics: Sequence[str] | None = TEXT_METRICS,
    class_by: str | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Each metric's value per row, percent, [N]; rows that a metric leaves out are NaN.

    Arguments and errors are those of `score_texts`; metrics that are no mean of rows (`bleu`, `macro_f1`) are refused.
    """
    measured = _measure(predictions, labels, long_answer_chars, metrics, class_by)
    corpus = [name for name, (_, found) in measured.items() if found.values_NK.shape[1] != 1]
    if corpus:
        raise ConfigError(f"metrics: {', '.join(corpus)} belong to the whole set of rows and have no value per row")
    return {name: found.values_NK[:, 0] for name, (_, found) in measured.items()}


def score_texts(
    predictions: Sequence[str],
    labels: Sequence[str],
    *,
    long_answer_chars: int = 10,
    metrics: Sequence[str] | None = TEXT_METRICS,
    class_by: str | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Score predicted answers against their labels.

    Args:
        predictions: Predicted answers, as generated.
        labels: Expected answers, in the same order.
        long_answer_chars: A label is long above this many characters (`exact_match_long`).
        metrics: Names or ids; None takes those that fit the labels.
        class_by: What makes a class of an answer (`class_accuracy`, `macro_f1`); None decides by the labels.
        seed: Seed of the bootstrap.

    Returns:
        Scores by name. A metric that no row takes part in (no long label) is absent.

    Raises:
        DataError: When there are no rows, or the numbers of predictions and labels differ.
        ConfigError: When a metric's name is unknown.
        MissingExtraError: When a metric's library is not installed.
    """
    scores: dict[str, Score] = {}
    for name, (definition, found) in _measure(predictions, labels, long_answer_chars, metrics, class_by).items():
        values_NK = found.values_NK[~np.isnan(found.values_NK).any(axis=1)]
        if len(values_NK) == 0:
            continue
        value = float(found.combine(values_NK.sum(axis=0, keepdims=True), np.array([float(len(values_NK))]))[0])
        low, high = bootstrap_statistic(values_NK, found.combine, seed=seed)
        scores[name] = Score(value, len(values_NK), low, high, definition.words, definition.id)
    return scores


def _measure(
    predictions: Sequence[str],
    labels: Sequence[str],
    long_answer_chars: int,
    metrics: Sequence[str] | None,
    class_by: str | None,
) -> dict[str, tuple[Definition, Statistics]]:
    if len(predictions) != len(labels):
        raise DataError(f"{len(predictions)} predictions but {len(labels)} labels; each row needs one of both")
    if not labels:
        raise DataError("there are no predictions to score; at least one row is needed")
    found = families(labels, long_answer_chars=long_answer_chars, class_by=class_by)
    names = fitting_metrics(found, labels) if metrics is None else resolve_metrics(metrics, found)
    measured: dict[str, tuple[Definition, Statistics]] = {}
    for family in found:
        definitions = {each.name: each for each in family.definitions}
        wanted = [name for name in names if name in definitions]
        if wanted:
            for name, statistics in family.measure(predictions, labels, wanted).items():
                measured[name] = (definitions[name], statistics)
    return {name: measured[name] for name in names}


def scores_to_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as plain JSON values, definitions included."""
    return {name: asdict(score) for name, score in scores.items()}
