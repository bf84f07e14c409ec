"""Classification of texts: a row's prompt is the text, its answer the name of the class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from loratory.data.records import Record
from loratory.data.sequence import TokenSequence
from loratory.data.templates import BoundTemplate
from loratory.errors import ConfigError, DataError, suggest
from loratory.model.task import ClassHead
from loratory.objective.loss import LossSum, Objective
from loratory.objective.row import Batch, Row
from loratory.tree.classes import scored_sequence
from loratory.tree.scorer import Scorer

LABEL = "label"
MAX_LABELS = 1000
_SHOWN = 5
_CASES = "f1_cases"


class ClassificationObjective(Objective):
    """Cross-entropy of the class in nats per row; logs accuracy and macro-F1.

    Args:
        labels: Names of the classes in order, a file with one a line, or None: the training rows' distinct answers.

    Raises:
        ConfigError: A name stands twice, or the file cannot be read.
    """

    name = "classification"

    def __init__(self, labels: Sequence[str] | str | None = None) -> None:
        self._given = None if labels is None else _read_labels(labels)
        self.labels: tuple[str, ...] = self._given or ()

    def sequences(self, record: Record, template: BoundTemplate) -> tuple[TokenSequence, ...]:
        """The prompt, scored at its last token.

        Raises:
            DataError: The row has no answer to name its class.
        """
        if record.answer is None or record.is_text:
            raise DataError(f"{record.origin}: the row names no class. Its answer must be the name of one.")
        return (scored_sequence(template.generation_prompt(record)),)

    def texts(self, record: Record) -> Mapping[str, str]:
        """The class's name."""
        return {LABEL: class_name(record)}

    def count(self, row: Sequence[TokenSequence]) -> float:
        """A row counts one."""
        return 1.0

    def learn_labels(self, train: Sequence[Row], validation: Sequence[Row], *, is_split: bool) -> str:
        """Fix the classes and their order.

        Raises:
            DataError: Fewer than two classes, more than `MAX_LABELS`, or rows of a class that is not known.
        """
        source = [*train, *validation] if is_split else train
        found = tuple(sorted({row.texts[LABEL] for row in source}))
        self.labels = self._given or found
        if len(self.labels) < 2 or (self._given is None and len(found) > MAX_LABELS):
            raise DataError(
                f"the training rows name {len(found)} classes ({', '.join(map(repr, found[:_SHOWN]))}"
                f"{', …' if len(found) > _SHOWN else ''}); classification needs 2 to {MAX_LABELS}. Are the answers "
                "class names? Else use objective.name=sft, or name the classes in objective.classification.labels."
            )
        unknown = [row for row in (*train, *validation) if row.texts[LABEL] not in self.labels]
        if unknown:
            raise DataError(_unknown(unknown, self.labels, is_given=self._given is not None))
        shown = ", ".join(self.labels[:_SHOWN])
        return f"{len(self.labels)} classes: {shown}{', …' if len(self.labels) > _SHOWN else ''}"

    def head(self, *, seed: int) -> ClassHead:
        """One score for each class."""
        return ClassHead(self.labels, seed)

    def loss(self, scorer: Scorer, batch: Batch) -> LossSum:
        """Summed over rows."""
        scores_BL = scorer.class_scores(batch.tree)
        index = {name: number for number, name in enumerate(self.labels)}
        class_B = torch.tensor([index[row.texts[LABEL]] for row in batch.rows], device=scores_BL.device)
        loss = torch.nn.functional.cross_entropy(scores_BL, class_B, reduction="sum")
        found_B = scores_BL.detach().argmax(dim=-1)
        metrics = {"accuracy": (float((found_B == class_B).sum()), float(len(class_B)))}
        for (true, found), count in Counter(zip(class_B.tolist(), found_B.tolist(), strict=True)).items():
            for kind, number in (("hit", true),) if true == found else (("missed", true), ("false", found)):
                key = f"{_CASES}/{kind}/{number}"
                metrics[key] = (metrics.get(key, (0.0, 0.0))[0] + count, 1.0)
        return LossSum(loss, float(len(batch.rows)), metrics)

    def summary(self, metrics: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Accuracy, and macro-F1: the mean of F1 over the classes that rows have or were given."""
        means = super().summary({name: pair for name, pair in metrics.items() if not name.startswith(_CASES)})
        numbers = sorted({name.rsplit("/", 1)[1] for name in metrics if name.startswith(_CASES)})
        scores = []
        for number in numbers:
            hit, missed, false = (
                metrics.get(f"{_CASES}/{k}/{number}", (0.0, 0.0))[0] for k in ("hit", "missed", "false")
            )
            scores.append(2 * hit / (2 * hit + missed + false))
        return means | ({"macro_f1": sum(scores) / len(scores)} if scores else {})


def class_name(record: Record) -> str:
    """The class that a record's answer names, without white space around it."""
    return (record.answer or "").strip()


def _read_labels(labels: Sequence[str] | str) -> tuple[str, ...]:
    key = "objective.classification.labels"
    if isinstance(labels, str):
        try:
            text = Path(labels).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{key}: cannot read '{labels}' as a text file with one name per line: {error}"
            ) from error
        labels = text.splitlines()
    names = tuple(name.strip() for name in labels if name.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or len(names) < 2:
        fault = f"'{twice[0]}' stands twice" if twice else f"names {len(names)} classes; 2 or more are needed"
        raise ConfigError(f"{key}: {fault}.")
    return names


def _unknown(rows: Sequence[Row], labels: Sequence[str], *, is_given: bool) -> str:
    shown = ", ".join(f"{row.texts[LABEL]!r} ({row.origin})" for row in rows[:_SHOWN])
    source = "objective.classification.labels" if is_given else "the training rows"
    return (
        f"{len(rows)} rows are of a class that {source} do not have: {shown}{', …' if len(rows) > _SHOWN else ''}."
        f"{suggest(rows[0].texts[LABEL], list(labels))} Mend the rows, or name every class in "
        "objective.classification.labels."
    )
