"""ROUGE as Google's rouge_score computes it: ASCII words, repeated n-grams clipped, no stemming."""

from collections.abc import Mapping, Sequence

from loratory.errors import MissingExtraError
from loratory.evaluation.answer_metrics.family import Definition, Statistics

_MEANINGS = {"rouge1": "words", "rouge2": "word pairs", "rougeL": "the longest common subsequence of words"}


class RougeEnglish:
    """`rouge1`, `rouge2`, `rougeL`."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        return tuple(
            Definition(
                name,
                f"{name}@rouge_score",
                f"F1 of {meaning} (rouge_score, lower case, [a-z0-9] only, no stemming), percent, mean over rows",
            )
            for name, meaning in _MEANINGS.items()
        )

    def fits(self, labels: Sequence[str]) -> bool:
        """Only when asked for: it does not see other scripts than ASCII."""
        return False

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metrics asked for."""
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError as error:
            raise MissingExtraError("ROUGE of rouge_score", "metrics") from error
        scorer = RougeScorer(list(names), use_stemmer=False)
        rows = [scorer.score(target=t, prediction=p) for p, t in zip(predictions, labels, strict=True)]
        return {name: Statistics.of_rows([100 * float(row[name].fmeasure) for row in rows]) for name in names}
