"""Answers that list items, such as codes between `|`: how many of them are right, and how many were found."""

from collections import Counter
from collections.abc import Mapping, Sequence

from loratory.evaluation.answer_metrics.family import Definition, Statistics

SEPARATOR = "|"
_MEANINGS = {
    "item_precision": "share of the prediction's items that the label has",
    "item_recall": "share of the label's items that the prediction has",
    "item_f1": "harmonic mean of item_precision and item_recall",
}


def precision_recall_f1(prediction: Sequence[str], label: Sequence[str]) -> tuple[float, float, float]:
    """Of two multisets, 0 to 1; two empty ones agree."""
    if not prediction and not label:
        return 1.0, 1.0, 1.0
    hits = (Counter(prediction) & Counter(label)).total()
    if hits == 0:
        return 0.0, 0.0, 0.0
    precision, recall = hits / len(prediction), hits / len(label)
    return precision, recall, 2 * precision * recall / (precision + recall)


def items_of(text: str) -> list[str]:
    """The items of an answer, outer whitespace stripped, empty ones left out."""
    return [item for part in text.split(SEPARATOR) if (item := part.strip())]


class Items:
    """`item_precision`, `item_recall`, `item_f1`."""

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        tail = f"items are separated by {SEPARATOR}, order does not count, repeated items do; percent, mean over rows"
        return tuple(Definition(name, f"{name}@{SEPARATOR}", f"{words}; {tail}") for name, words in _MEANINGS.items())

    def fits(self, labels: Sequence[str]) -> bool:
        """Whether a label lists several items."""
        return any(SEPARATOR in label for label in labels)

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Statistics of the metrics asked for."""
        rows = [precision_recall_f1(items_of(p), items_of(t)) for p, t in zip(predictions, labels, strict=True)]
        columns = dict(zip(_MEANINGS, zip(*rows, strict=True), strict=True))
        return {name: Statistics.of_rows([100 * value for value in columns[name]]) for name in names}
