"""The browser of predictions: filters, search, pages."""

from pathlib import Path

import pytest

from forged_runs import forge_run, with_faults
from loratory.errors import DataError, RunError
from loratory.ui.answers import FILTERS, ROWS_AT_A_TIME, read_answer_table
from loratory.ui.laboratory import Laboratory

LABELS = [f"label{i % 3}" for i in range(120)]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A base that is always wrong; one run wrong in rows 0-9, another in rows 5-14."""
    base = ["nothing"] * len(LABELS)
    return [
        forge_run(tmp_path / "one", with_faults(LABELS, range(10)), LABELS, base=base),
        forge_run(tmp_path / "two", with_faults(LABELS, range(5, 15)), LABELS, rank=4),
    ]


def numbers(runs: list[Path], wanted: str, words: str = "", page: int = 1) -> list[int]:
    return [row.number for row in read_answer_table(runs).find(wanted, words, page=page).rows]


def test_columns_are_base_and_runs_and_each_answer_is_judged(runs: list[Path]) -> None:
    found = read_answer_table(runs).find("all rows", "")
    assert found.titles == ("base", "one", "two")
    assert (found.total, found.num_rows, len(found.rows)) == (120, 120, ROWS_AT_A_TIME)
    row = found.rows[5]
    assert (row.number, row.label, row.question) == (6, "label2", "Question 5 of label2?")
    assert row.answers == (("nothing", False), ("wrong", False), ("wrong", False))


def test_filters(runs: list[Path]) -> None:
    assert numbers(runs, "all are wrong") == [6, 7, 8, 9, 10]
    assert numbers(runs, "all are right") == []
    only = [runs[1]]
    assert numbers(only, "somebody is wrong") == list(range(6, 16))
    assert numbers(only, "all are right")[:6] == [1, 2, 3, 4, 5, 16]
    assert numbers(only, "answers differ") == []
    assert set(FILTERS) >= {"all rows", "all are wrong"}


def test_search_looks_into_question_label_and_answers(runs: list[Path]) -> None:
    assert numbers(runs, "all rows", "QUESTION 77 of") == [78]
    assert numbers(runs, "all rows", "wrong") == list(range(1, 16))
    assert numbers(runs, "all rows", "no such text") == []


def test_pages(runs: list[Path]) -> None:
    assert numbers(runs, "all rows", page=3) == list(range(101, 121))
    assert numbers(runs, "all rows", page=99) == numbers(runs, "all rows", page=3)
    assert numbers(runs, "all rows", page=-1)[0] == 1


def test_runs_of_different_rows_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = forge_run(tmp_path / "three", LABELS[:60], LABELS[:60])
    with pytest.raises(DataError, match="different rows"):
        read_answer_table([runs[0], other])


def test_the_laboratory_reads_again_when_a_file_has_changed(runs: list[Path], tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    first = laboratory.answers(["two"])
    assert laboratory.answers(["two"]) is first
    file = runs[1] / "predictions" / "test" / "generated_predictions.jsonl"
    file.write_text(file.read_text().replace('"wrong"', '"other"'))
    assert laboratory.answers(["two"]).find("all rows", "other").total == 10
    with pytest.raises(RunError):
        laboratory.answers(["../two"])
