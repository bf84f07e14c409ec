"""Which rows predictions belong to, so that runs are compared on the same ones only.

`loratory predict` writes the rows' fingerprint beside its predictions. It covers questions and answers but no template
and no system prompt, because these are settings that may differ. Predictions without it are told apart by their labels
and by their prompts less what all prompts of the file share.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.data.records import Record
from loratory.errors import DataError, IntegrityError
from loratory.infer.predict import Prediction
from loratory.run import write_text

FILE_NAME = "test_set.json"
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class TestSet:
    """Rows that were predicted.

    Attributes:
        source: File or hub name; empty when it was not recorded.
        sha256: Over questions and answers of the rows in order; of the predictions' own text when not recorded.
        num_rows: Number of rows.
        is_recorded: Whether `predict` wrote it down.
    """

    __test__ = False  # no test class

    source: str
    sha256: str
    num_rows: int
    is_recorded: bool


def write_test_set(folder: Path, source: str, records: Sequence[Record]) -> None:
    """Write down beside predictions which rows they are of.

    Args:
        folder: The predictions' folder.
        source: Where the rows came from.
        records: The rows, in the order of the predictions.
    """
    rows = [
        [[[turn.role, turn.content] for turn in record.prompt if turn.role != "system"], record.answer]
        for record in records
    ]
    content = {"source": source, "sha256": _sha256(rows), "num_rows": len(records)}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_test_set(folder: Path, predictions: Sequence[Prediction]) -> TestSet:
    """The rows of a folder with predictions.

    Raises:
        IntegrityError: What `predict` wrote down is damaged, or is of another number of rows.
    """
    file = folder / FILE_NAME
    if not file.exists():
        own = [[core, row.label] for core, row in zip(question_cores(predictions), predictions, strict=True)]
        return TestSet("", _sha256(own), len(predictions), False)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = TestSet(str(content["source"]), str(content["sha256"]), int(content["num_rows"]), True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{file}: cannot be read ({error}); predict again") from error
    if found.num_rows != len(predictions):
        raise IntegrityError(
            f"{file}: {found.num_rows} rows, but {len(predictions)} predictions stand beside it; predict again"
        )
    return found


def question_cores(predictions: Sequence[Prediction]) -> list[str]:
    """Prompts less the beginning and the end that all of them share: the template, and no more than questions share."""
    prompts = [row.prompt for row in predictions]
    head = _shared_start(prompts)
    tails = [prompt[head:][::-1] for prompt in prompts]
    tail = _shared_start(tails)
    return [text[tail:][::-1] for text in tails]


def _shared_start(texts: Sequence[str]) -> int:
    """Characters that all texts begin with."""
    first, last = min(texts), max(texts)
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def refuse_different(sets: Sequence[tuple[str, TestSet, Sequence[Prediction]]]) -> None:
    """Refuse runs that were not tested on the same rows.

    Args:
        sets: Name, rows and predictions of each run.

    Raises:
        DataError: Saying what differs for each run.
    """
    name, first, rows = sets[0]
    faults = []
    for other_name, other, other_rows in sets[1:]:
        fault = _difference(first, rows, other, other_rows)
        if fault:
            faults.append(f"  {other_name} ({_words(other)}) differs from {name} ({_words(first)}): {fault}")
    if faults:
        raise DataError(
            "these runs were tested on different rows, so their scores cannot be compared:\n"
            + "\n".join(faults)
            + "\nLet each run answer the same file: loratory predict RUN --data FILE"
        )


def _difference(
    first: TestSet, rows: Sequence[Prediction], other: TestSet, other_rows: Sequence[Prediction]
) -> str | None:
    if len(rows) != len(other_rows):
        return f"{len(rows)} rows against {len(other_rows)}"
    labels, other_labels = [row.label for row in rows], [row.label for row in other_rows]
    if labels != other_labels:
        if sorted(labels) == sorted(other_labels):
            return "the same labels in another order"
        places = [i for i, pair in enumerate(zip(labels, other_labels, strict=True)) if pair[0] != pair[1]]
        at = places[0]
        return (
            f"{len(places)} rows have other labels, first row {at + 1}: {_short(labels[at])} against "
            f"{_short(other_labels[at])}"
        )
    if first.is_recorded and other.is_recorded:
        return None if first.sha256 == other.sha256 else "the labels are equal, the questions are not"
    cores, other_cores = question_cores(rows), question_cores(other_rows)
    changed = [i for i, pair in enumerate(zip(cores, other_cores, strict=True)) if pair[0] != pair[1]]
    if not changed:
        return None
    at = changed[0]
    return (
        f"the labels are equal, the prompts are not (first row {at + 1}: {_short(cores[at])} against "
        f"{_short(other_cores[at])}) and no {FILE_NAME} says whether the questions are; predict again to have it"
    )


def _words(found: TestSet) -> str:
    source = f"{found.source}, " if found.source else ""
    return f"{source}{found.num_rows} rows, sha256 {found.sha256[:12]}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
