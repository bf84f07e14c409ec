"""What the demo looks at before it trains: how many rows, which answers and how often, no leak into the test rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loratory.data.health.doctor import Doctor
from loratory.data.records import Record
from loratory.errors import DataError

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class DataCheck:
    """Counts of a training and a test set.

    Attributes:
        num_train: Training rows.
        num_test: Test rows.
        answers: Answer -> number of training rows, most frequent first.
        num_unseen: Test rows whose answer is no training row's.
    """

    num_train: int
    num_test: int
    answers: dict[str, int]
    num_unseen: int


def check_data(train: Sequence[Record], test: Sequence[Record]) -> DataCheck:
    """Count rows and answers.

    Raises:
        DataError: A prompt of the test rows is also one of the training rows; the first few are named.
    """
    doctor = Doctor(near=False)
    for record in test:
        doctor.learn_test(record, record.origin)
    for record in train:
        doctor.examine(record, record.origin)
    leakage = doctor.report(["train"], ["test"]).leakage
    # Runs of words in common are no leak here: the generator fills the same frames for both sets.
    if leakage is not None and leakage.exact:
        raise DataError(
            f"{leakage.exact} test prompts are also training prompts "
            f"({'; '.join(leakage.examples)}): a test score would measure memory. Remove them from the training rows"
        )
    answers = Counter(record.answer or "" for record in train)
    unseen = sum((record.answer or "") not in answers for record in test)
    return DataCheck(len(train), len(test), dict(answers.most_common()), unseen)


def show_data(check: DataCheck, console: Console) -> None:
    """Print the counts and a table of the answers' shares: the most frequent ones, the rest summed, the rarest."""
    console.print(
        f"{check.num_train} training rows, {check.num_test} test rows, {len(check.answers)} different answers; "
        f"no test question is among the training rows, {check.num_unseen} test answers are new"
    )
    table = Table("answer", "rows", "share")
    ranked = list(check.answers.items())
    shown, middle, last = ranked[:_SHOWN], ranked[_SHOWN:-1], ranked[_SHOWN:][-1:]
    for answer, count in shown:
        table.add_row(Text(answer), str(count), f"{count / check.num_train:.1%}")
    if middle:
        rest = sum(count for _, count in middle)
        table.add_row(f"… {len(middle)} more", str(rest), f"{rest / check.num_train:.1%}")
    for answer, count in last:
        table.add_row(Text(answer), str(count), f"{count / check.num_train:.1%}")
    console.print(table)
