"""Reading a task's files, and saying where they are broken."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import DataError
from loratory.evaluation.zero_shot.layout import LAYOUTS
from loratory.evaluation.zero_shot.local_data import candidate_files, read_local_task

ARC = {"question": "Why?", "choices": ["x", "y", "z"], "gold": 2}


def write(path: Path, *rows: Any) -> None:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_both_layouts_become_the_hub_s(tmp_path: Path) -> None:
    write(tmp_path / "arc_easy_test.jsonl", ARC)
    hub = {"id": "1", "question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    write(tmp_path / "arc_easy_validation.jsonl", hub)
    local = read_local_task("arc_easy", tmp_path)
    assert local is not None
    assert (local.split, local.fewshot_split) == ("test", "validation")
    expected = {"question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "C"}
    assert local.splits["test"] == (expected,)
    assert local.splits["validation"][0]["answerKey"] == "2"
    content = (tmp_path / "arc_easy_test.jsonl").read_bytes()
    assert local.sha256["arc_easy_test.jsonl"] == hashlib.sha256(content).hexdigest()


def test_without_a_test_file_the_validation_file_is_scored(tmp_path: Path) -> None:
    write(tmp_path / "openbookqa_validation.jsonl", {**ARC, "question_stem": "Why?"})
    local = read_local_task("openbookqa", tmp_path)
    assert local is not None
    assert (local.split, local.fewshot_split) == ("validation", "validation")
    assert local.splits["validation"][0]["question_stem"] == "Why?"


def test_labels_from_a_file_of_their_own(tmp_path: Path) -> None:
    row = {"goal": "g", "sol1": "a", "sol2": "b"}
    write(tmp_path / "piqa_valid.jsonl", row, row)
    write(tmp_path / "piqa_valid-labels.lst", "1", "0")
    local = read_local_task("piqa", tmp_path)
    assert local is not None
    assert [each["label"] for each in local.splits["validation"]] == [1, 0]
    write(tmp_path / "piqa_valid-labels.lst", "1")
    with pytest.raises(DataError, match="1 labels for 2 rows"):
        read_local_task("piqa", tmp_path)


def test_no_file_is_no_task(tmp_path: Path) -> None:
    assert read_local_task("hellaswag", tmp_path) is None
    assert candidate_files("arc_easy") == ("arc_easy_test.jsonl", "arc_easy_validation.jsonl")


@pytest.mark.parametrize(
    ("task", "file", "row", "message"),
    [
        ("arc_easy", "arc_easy_test.jsonl", {**ARC, "gold": 3}, "'gold' must be a number from 0 to 2, got 3"),
        ("arc_easy", "arc_easy_test.jsonl", {**ARC, "choices": ["x"]}, "'choices' must be a list of two texts or more"),
        ("arc_easy", "arc_easy_test.jsonl", {**ARC, "question": " "}, "'question' must be text that is not empty"),
        (
            "arc_easy",
            "arc_easy_test.jsonl",
            {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "C"},
            "'answerKey' must be one of the choices' labels",
        ),
        ("arc_easy", "arc_easy_test.jsonl", "[1]", "a row must be a JSON object"),
        ("arc_easy", "arc_easy_test.jsonl", '{"question": ', "not JSON"),
        ("boolq", "boolq_validation.jsonl", {"question": "q", "passage": "p"}, "'answer' must be true or false"),
        ("piqa", "piqa_valid.jsonl", {"goal": "g", "sol1": "a", "sol2": "b"}, "'label' must be a number from 0 to 1"),
        (
            "winogrande",
            "winogrande_xl_validation.jsonl",
            {"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"},
            "'sentence' must have a gap '_'",
        ),
        (
            "winogrande",
            "winogrande_xl_validation.jsonl",
            {"sentence": "a _", "option1": "a", "option2": "b", "answer": ""},
            "'answer' must be 1 or 2",
        ),
        ("hellaswag", "hellaswag_val.jsonl", {"query": "q", "choices": ["a", "b"], "gold": True}, "'gold' must be"),
    ],
)
def test_broken_rows_name_file_line_and_field(task: str, file: str, row: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / file, row)
    with pytest.raises(DataError) as caught:
        read_local_task(task, tmp_path)
    assert f"{file}, line 1: " in str(caught.value)
    assert message in str(caught.value)


def test_many_broken_rows_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "arc_easy_test.jsonl", *["{}"] * 8)
    with pytest.raises(DataError, match=r"8 broken rows(.|\n)*line 5(.|\n)*and 3 more"):
        read_local_task("arc_easy", tmp_path)


def test_empty_and_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "arc_easy_test.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        read_local_task("arc_easy", tmp_path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_local_task("arc_easy", tmp_path)


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    raw = {"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["x", "y"], "label": "0"}
    write(tmp_path / "hellaswag_val.jsonl", raw, {"query": "q", "choices": ["a", "b"], "gold": 0})
    with pytest.raises(DataError, match="keep rows of one layout"):
        read_local_task("hellaswag", tmp_path)


@pytest.mark.parametrize("task", sorted(LAYOUTS))
def test_the_public_files_are_read_whole(task: str, shared_data: Path) -> None:
    sizes = {
        "boolq": 3270, "piqa": 1838, "hellaswag": 1000, "winogrande": 1267, "arc_easy": 2376, "arc_challenge": 1172,
        "openbookqa": 500,
    }  # fmt: skip
    local = read_local_task(task, shared_data / "zero_shot")
    assert local is not None
    assert len(local.splits[local.split]) == sizes[task]
