"""The seven tasks and the local files they can be read from.

Rows come in two layouts: as the data sets on the hub have them, or as evaluation requests (`choices` as a list, `gold`
as an index). Both become rows with the hub's fields, so that lm-eval's own task definition formats and scores them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


class RowError(Exception):
    """What is wrong with a row; whoever reads the file adds its name and line."""


@dataclass(frozen=True, slots=True)
class TaskLayout:
    """Local form of a task.

    Attributes:
        folder: Folder of the task's definition below lm-eval's tasks.
        files: File names by split, the preferred one first.
        convert: Makes a row of the hub's layout; raises `RowError`.
        splits: Splits that may be scored, the one lm-eval uses first.
        has_label_file: A row's label may stand in a second file, `NAME-labels.lst`, on the same line.
    """

    folder: str
    files: Mapping[str, tuple[str, ...]]
    convert: Callable[[Row], Row]
    splits: tuple[str, ...]
    has_label_file: bool = False


def _text(row: Row, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"field '{field}' must be text that is not empty, got {_shown(value)}")
    return value


def _texts(row: Row, field: str) -> list[str]:
    value = row.get(field)
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str) and v.strip() for v in value):
        raise RowError(f"field '{field}' must be a list of two texts or more, none empty, got {_shown(value)}")
    return value


def _index(row: Row, field: str, num_choices: int) -> int:
    value = row.get(field)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < num_choices:
        raise RowError(f"field '{field}' must be a number from 0 to {num_choices - 1}, got {_shown(row.get(field))}")
    return value


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _boolq(row: Row) -> Row:
    answer = row.get("answer", row.get("label"))
    if answer not in (False, True):
        raise RowError(f"field 'answer' must be true or false, got {_shown(answer)}")
    return {"question": _text(row, "question"), "passage": _text(row, "passage"), "label": int(answer)}


def _piqa(row: Row) -> Row:
    texts = {name: _text(row, name) for name in ("goal", "sol1", "sol2")}
    return {**texts, "label": _index(row, "label", 2)}


def _hellaswag(row: Row) -> Row:
    if "query" in row:
        choices = _texts(row, "choices")
        return {"query": _text(row, "query"), "choices": choices, "label": _index(row, "gold", len(choices))}
    texts = {name: _text(row, name) for name in ("activity_label", "ctx_a")}
    context_b = row.get("ctx_b")
    if not isinstance(context_b, str):
        raise RowError(f"field 'ctx_b' must be text, got {_shown(context_b)}")
    endings = _texts(row, "endings")
    return {**texts, "ctx_b": context_b, "endings": endings, "label": str(_index(row, "label", len(endings)))}


def _winogrande(row: Row) -> Row:
    texts = {name: _text(row, name) for name in ("sentence", "option1", "option2")}
    if "_" not in texts["sentence"]:
        raise RowError(f"field 'sentence' must have a gap '_', got {_shown(texts['sentence'])}")
    if str(row.get("answer")) not in ("1", "2"):
        raise RowError(f"field 'answer' must be 1 or 2, got {_shown(row.get('answer'))}")
    return {**texts, "answer": str(row["answer"])}


def _question(row: Row, field: str) -> Row:
    question = _text(row, field if field in row else "question")
    if isinstance(row.get("choices"), dict):
        texts, labels = _texts(row["choices"], "text"), _texts(row["choices"], "label")
        answer = _text(row, "answerKey").strip()
        if len(texts) != len(labels) or answer not in labels:
            raise RowError(f"field 'answerKey' must be one of the choices' labels {labels}, got {answer!r}")
    else:
        texts = _texts(row, "choices")
        labels = [chr(ord("A") + i) for i in range(len(texts))]
        answer = labels[_index(row, "gold", len(texts))]
    return {field: question, "choices": {"text": texts, "label": labels}, "answerKey": answer}


def _arc(row: Row) -> Row:
    return _question(row, "question")


def _openbookqa(row: Row) -> Row:
    return _question(row, "question_stem")


def _split_files(stem: str) -> Mapping[str, tuple[str, ...]]:
    return {split: (f"{stem}_{split}.jsonl",) for split in ("train", "validation", "test")}


LAYOUTS: Mapping[str, TaskLayout] = {
    "boolq": TaskLayout("super_glue/boolq", _split_files("boolq"), _boolq, ("validation",)),
    "piqa": TaskLayout(
        "piqa",
        {"train": ("piqa_train.jsonl",), "validation": ("piqa_valid.jsonl", "piqa_validation.jsonl")},
        _piqa,
        ("validation",),
        has_label_file=True,
    ),
    "hellaswag": TaskLayout(
        "hellaswag",
        {
            "train": ("hellaswag_train.jsonl",),
            "validation": ("hellaswag_val.jsonl", "hellaswag_validation.jsonl", "hellaswag_val_1000.jsonl"),
        },
        _hellaswag,
        ("validation",),
    ),
    "winogrande": TaskLayout("winogrande", _split_files("winogrande_xl"), _winogrande, ("validation",)),
    "arc_easy": TaskLayout("arc", _split_files("arc_easy"), _arc, ("test", "validation")),
    "arc_challenge": TaskLayout("arc", _split_files("arc_challenge"), _arc, ("test", "validation")),
    "openbookqa": TaskLayout("openbookqa", _split_files("openbookqa"), _openbookqa, ("test", "validation")),
}
"""Tasks by lm-eval's name."""
