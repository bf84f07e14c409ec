"""Whole answers: equal or not."""

from collections.abc import Mapping, Sequence

import numpy as np

from loratory.evaluation.answer_metrics.family import Definition, Statistics

DEFAULT_LONG_ANSWER_CHARS = 10


def is_exact_match(prediction: str, label: str) -> bool:
    """Whether the texts are equal after stripping outer whitespace."""
    return prediction.strip() == label.strip()


class Match:
    """`exact_match` over all rows, `exact_match_long` over rows with a long label.

    Args:
        long_answer_chars: A label is long above this many characters.
    """

    def __init__(self, *, long_answer_chars: int = DEFAULT_LONG_ANSWER_CHARS) -> None:
        self._long_answer_chars = long_answer_chars

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        chars = self._long_answer_chars
        suffix = "" if chars == DEFAULT_LONG_ANSWER_CHARS else f"@chars>{chars}"
        return (
            Definition(
                "exact_match",
                "exact_match",
                "percent of rows whose prediction equals the label after outer whitespace is stripped from both",
            ),
            Definition(
                "exact_match_long",
                f"exact_match_long{suffix}",
                f"exact_match over rows whose stripped label is longer than {chars} characters, percent",
            ),
        )

    def fits(self, labels: Sequence[str]) -> bool:
        """Always."""
        return True

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metrics asked for."""
        exact = np.array([100.0 * is_exact_match(p, t) for p, t in zip(predictions, labels, strict=True)])
        is_long = np.array([len(label.strip()) > self._long_answer_chars for label in labels])
        found = {"exact_match": exact, "exact_match_long": np.where(is_long, exact, np.nan)}
        return {name: Statistics(found[name][:, None]) for name in names}
