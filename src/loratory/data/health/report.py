"""The doctor's report: findings, limits, and the faults that follow from both."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from loratory.data.health.leakage import Leakage
from loratory.data.health.ledger import Finding
from loratory.data.health.profile import AnswerBalance, Spread
from loratory.data.health.tokens import TokenReport

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each fault is tolerated: a share of the rows below 1, a number of rows otherwise; None: any.

    Attributes:
        bad_rows: Rows that the reader refuses.
        duplicates: Rows that repeat an earlier row.
        near_duplicates: Rows that resemble an earlier row.
        conflicts: Rows whose prompt has different answers.
        markers: Rows with control markers in their text.
        leakage: Test rows that are among the training rows (exact, normalised, 13 words in a row).
        near_leakage: Test rows that resemble a training row.
        truncated: Rows longer than the length limit.
    """

    bad_rows: float | None = 0
    duplicates: float | None = 0.05
    near_duplicates: float | None = None
    conflicts: float | None = 0.05
    markers: float | None = 0
    leakage: float | None = 0
    near_leakage: float | None = None
    truncated: float | None = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Everything that a check found; `as_dict` is the JSON report.

    Attributes:
        files: What was read.
        test_files: What the rows were compared with.
        rows_read: Rows looked at, test rows not counted.
        rows_kept: Rows that the reader accepts.
        bad_rows: Reason -> rows refused for it.
        bad_examples: Reason -> the first few, as file:line:field.
        bad_test_rows: Test rows that the reader refuses.
        duplicates: Rows whose prompt and answer an earlier row has.
        near_duplicates: Rows that resemble an earlier row; None when not looked for.
        conflicts: Rows whose prompt has different answers.
        markers: Rows with control markers in their text.
        odd_characters: Rows with control characters, replacement characters or direction marks.
        placeholders: Rows whose answer stands for 'no answer'.
        leakage: Test rows among the training rows; None without test rows.
        scripts: Script of the question -> rows.
        lengths: Distributions of characters and words, of prompts and of answers.
        answers: The answers' balance; None where they do not look like classes.
        tokens: Token figures; None without a tokenizer.
        limits: What was tolerated.
        faults: A sentence for each limit that was exceeded; none means healthy.
        seconds: How long the check took.
        rows_per_s: All rows, test rows included, by that time.
    """

    files: tuple[str, ...]
    test_files: tuple[str, ...]
    rows_read: int
    rows_kept: int
    bad_rows: Mapping[str, int]
    bad_examples: Mapping[str, tuple[str, ...]]
    bad_test_rows: int
    duplicates: Finding
    near_duplicates: Finding | None
    conflicts: Finding
    markers: Finding
    odd_characters: Finding
    placeholders: Finding
    leakage: Leakage | None
    scripts: Mapping[str, int]
    lengths: Mapping[str, Spread]
    answers: AnswerBalance | None
    tokens: TokenReport | None
    limits: Limits
    faults: tuple[str, ...]
    seconds: float
    rows_per_s: float

    def as_dict(self) -> dict[str, object]:
        """The report as JSON-able values, with `schema_version`."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def exceeded(found: Mapping[str, tuple[int, int]], limits: Limits) -> tuple[str, ...]:
    """A sentence for each limit that was exceeded.

    Args:
        found: Name of a limit -> (rows found, rows looked at).
        limits: What is tolerated.
    """
    faults = []
    for name, allowed in asdict(limits).items():
        if allowed is None or name not in found:
            continue
        count, total = found[name]
        if count > (allowed * total if 0 < allowed < 1 else allowed):
            tolerated = f"{allowed:.1%}" if 0 < allowed < 1 else f"{allowed:g}"
            faults.append(
                f"{name.replace('_', ' ')}: {count:,} of {total:,} rows; allowed {tolerated} "
                f"(--max-{name.replace('_', '-')})"
            )
    return tuple(faults)
