"""Predictions of runs beside each other: which rows to show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.compare import read_runs
from loratory.compare.run_facts import choose_predictions
from loratory.compare.test_set import refuse_different
from loratory.evaluation.answer_metrics.match import is_exact_match
from loratory.report.content import Column, answer_columns
from loratory.report.predictions import questions

ROWS_AT_A_TIME = 50


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A test row and its answers.

    Attributes:
        number: Its place in the test set, from 1.
        question: The prompt less the template around it.
        label: The expected answer.
        answers: Each column's answer, and whether it equals the label.
    """

    number: int
    question: str
    label: str
    answers: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Rows that passed a filter.

    Attributes:
        titles: Of the columns of answers.
        rows: Those of one page.
        first: Place of the first of them among all that passed.
        total: How many passed.
        num_rows: How many there are.
    """

    titles: tuple[str, ...]
    rows: tuple[FoundRow, ...]
    first: int
    total: int
    num_rows: int


_TESTS: dict[str, Callable[[FoundRow], bool]] = {
    "all rows": lambda row: True,
    "somebody is wrong": lambda row: not all(is_right for _, is_right in row.answers),
    "all are wrong": lambda row: not any(is_right for _, is_right in row.answers),
    "all are right": lambda row: all(is_right for _, is_right in row.answers),
    "answers differ": lambda row: len({text for text, _ in row.answers}) > 1,
}
FILTERS = tuple(_TESTS)


class AnswerTable:
    """The answers of runs, and of their untrained bases where they are kept, to the same rows.

    Args:
        columns: At least one.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        first = columns[0].answers.rows
        self.titles = tuple(column.title for column in columns)
        self._rows = tuple(
            FoundRow(
                number=place + 1,
                question=question,
                label=first[place].label,
                answers=tuple(
                    (answer := column.answers.rows[place].predict, is_exact_match(answer, first[place].label))
                    for column in columns
                ),
            )
            for place, question in enumerate(questions(first))
        )

    def find(self, wanted: str, words: str, *, page: int = 1) -> Found:
        """One page of the rows that pass.

        Args:
            wanted: One of `FILTERS`; any other name passes all rows.
            words: Text that the question, the label or an answer holds, in whatever case.
            page: From 1; beyond the last one, the last.
        """
        test, sought = _TESTS.get(wanted, _TESTS["all rows"]), words.strip().casefold()
        rows = [row for row in self._rows if test(row) and (not sought or _holds(row, sought))]
        last = max(1, -(-len(rows) // ROWS_AT_A_TIME))
        first = (min(max(1, page), last) - 1) * ROWS_AT_A_TIME
        return Found(self.titles, tuple(rows[first : first + ROWS_AT_A_TIME]), first, len(rows), len(self._rows))


def read_answer_table(paths: Sequence[Path], predictions: str | None = None) -> AnswerTable:
    """The answers of these runs.

    Args:
        paths: Run directories.
        predictions: Name of the predictions; None takes those that all runs have.

    Raises:
        ConfigError: No run is given.
        RunError: A path is no run.
        DataError: Predictions are missing, or of different rows.
    """
    runs = read_runs(paths)
    columns = answer_columns(runs, choose_predictions(runs, predictions))
    refuse_different([(column.title, column.answers.test_set, column.answers.rows) for column in columns])
    return AnswerTable(columns)


def _holds(row: FoundRow, sought: str) -> bool:
    texts = (row.question, row.label, *(text for text, _ in row.answers))
    return any(sought in text.casefold() for text in texts)
