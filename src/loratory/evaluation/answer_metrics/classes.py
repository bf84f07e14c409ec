"""Coded answers as classes: the code's family, or the whole answer where answers are few."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loratory.data.strata import parse_stratum
from loratory.errors import ConfigError
from loratory.evaluation.answer_metrics.family import Definition, FloatArray, Statistics

MAX_CLASSES = 100
MIN_ROWS_PER_CLASS = 4
WHOLE_ANSWER = "answer"
CODE_FAMILY = "answer:prefix(_)"


def class_rule(labels: Sequence[str]) -> str | None:
    """What makes a class of these labels: the whole answer, else what stands before `_`, else None.

    A rule fits when it gives 2 to `MAX_CLASSES` classes with `MIN_ROWS_PER_CLASS` rows each on average; a code's
    family needs the `_` in all labels.
    """
    rules = [WHOLE_ANSWER, *([CODE_FAMILY] if all("_" in label for label in labels) else [])]
    for rule in rules:
        count = len(set(classes_of(labels, rule)))
        if 2 <= count <= MAX_CLASSES and len(labels) >= MIN_ROWS_PER_CLASS * count:
            return rule
    return None


def classes_of(texts: Sequence[str], rule: str) -> list[str]:
    """The class of each answer.

    Raises:
        ConfigError: The rule is no expression over `answer`.
    """
    stratum = parse_stratum(rule)
    if stratum.field != "answer":
        raise ConfigError(f"class rule: '{rule}' must begin with 'answer', such as {CODE_FAMILY}")
    found = []
    for text in texts:
        text = text.strip()
        for step in stratum.steps:
            text = step(text)
        found.append(text)
    return found


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: percents, rows with this label, rows with this prediction."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Scores of each class and what was taken for what.

    Attributes:
        rule: What makes a class of an answer.
        rows: The labels' classes, the most frequent first, then by name.
        confusion: Predicted classes with their number of rows, for each label's class; predictions outside the labels'
            classes are counted together under `OTHER`.
    """

    rule: str
    rows: tuple[ClassRow, ...]
    confusion: Mapping[str, Mapping[str, int]]


OTHER = "(other)"


def class_table(predictions: Sequence[str], labels: Sequence[str], rule: str) -> ClassTable:
    """Precision, recall, F1 and support of each class of the labels; a class never predicted has precision 0."""
    expected, given = classes_of(labels, rule), classes_of(predictions, rule)
    support = Counter(expected)
    given = [name if name in support else OTHER for name in given]
    predicted = Counter(given)
    hits = Counter(e for e, g in zip(expected, given, strict=True) if e == g)
    names = sorted(support, key=lambda name: (-support[name], name))
    rows = []
    for name in names:
        precision = hits[name] / predicted[name] if predicted[name] else 0.0
        f1 = 2 * hits[name] / (support[name] + predicted[name])
        recall = hits[name] / support[name]
        rows.append(ClassRow(name, 100 * precision, 100 * recall, 100 * f1, support[name], predicted[name]))
    confusion = {
        name: dict(Counter(g for e, g in zip(expected, given, strict=True) if e == name).most_common())
        for name in names
    }
    return ClassTable(rule, tuple(rows), confusion)


class Classes:
    """`class_accuracy` and `macro_f1` over the classes that labels have.

    Args:
        rule: What makes a class of an answer; None chooses by `class_rule`, or takes the whole answer.
    """

    def __init__(self, *, rule: str | None = None) -> None:
        self._rule = rule

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The family's metrics."""
        rule = self._rule or "auto"
        return (
            Definition(
                "class_accuracy",
                f"class_accuracy@{rule}",
                f"percent of rows whose prediction is of the label's class; class: {rule}",
            ),
            Definition(
                "macro_f1",
                f"macro_f1@{rule}",
                f"mean over the labels' classes of F1 = 2 hits / (support + predicted), percent; class: {rule}",
            ),
        )

    def fits(self, labels: Sequence[str]) -> bool:
        """Whether a class rule is given."""
        return self._rule is not None

    def measure(
        self, predictions: Sequence[str], labels: Sequence[str], names: Sequence[str]
    ) -> Mapping[str, Statistics]:
        """Hits, and one-hot label and prediction of each row."""
        rule = self._rule or WHOLE_ANSWER
        expected, given = classes_of(labels, rule), classes_of(predictions, rule)
        place = {name: index for index, name in enumerate(sorted(set(expected)))}
        hits = np.array([100.0 * (e == g) for e, g in zip(expected, given, strict=True)])
        values = np.zeros((len(labels), 2, len(place)))
        for row, (e, g) in enumerate(zip(expected, given, strict=True)):
            values[row, 0, place[e]] = float(e == g)
            values[row, 1, place[e]] += 1.0
            if g in place:
                values[row, 1, place[g]] += 1.0

        def macro_f1(sums_RK: FloatArray, counts_R: FloatArray) -> FloatArray:
            hits_RC, sizes_RC = np.split(sums_RK, 2, axis=1)
            f1_RC = np.divide(2 * hits_RC, sizes_RC, out=np.zeros_like(hits_RC), where=sizes_RC > 0)
            result: FloatArray = 100 * f1_RC.sum(axis=1) / (sizes_RC > 0).sum(axis=1)
            return result

        found = {
            "class_accuracy": Statistics(hits[:, None]),
            "macro_f1": Statistics(values.reshape(len(labels), -1), macro_f1),
        }
        return {name: found[name] for name in names}
