"""Token F1 of free answers, as SQuAD's evaluation script defines it."""

import re
import string
from collections.abc import Mapping, Sequence

from loratory.evaluation.answer_metrics.family import Definition, Statistics
from loratory.evaluation.answer_metrics.items import precision_recall_f1

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_tokens(text: str) -> list[str]:
    """Lower case, ASCII punctuation and English articles removed, cut at whitespace."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split()


class Tokens:
    """`token_f1`."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metric."""
        words = (
            "F1 of the words of prediction and label, lower case, without ASCII punctuation and a, an, the (SQuAD v1.1 "
            "evaluation), percent, mean over rows"
        )
        return (Definition("token_f1", "token_f1@squad", words),)

    def fits(self, labels: Sequence[str]) -> bool:
        """Whether most labels have several words."""
        return 2 * sum(len(label.split()) > 1 for label in labels) > len(labels)

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metric."""
        pairs = zip(predictions, labels, strict=True)
        rows = [100 * precision_recall_f1(answer_tokens(p), answer_tokens(t))[2] for p, t in pairs]
        return {name: Statistics.of_rows(rows) for name in names}
