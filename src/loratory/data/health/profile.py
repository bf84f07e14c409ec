"""What the rows look like: lengths, scripts, answers, and text that does not belong into a row."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loratory.data.health.ledger import EXAMPLES, Finding, answer_text
from loratory.data.health.text import ODD_CHARACTER, MarkerSearch, script_of, words
from loratory.data.records import Record

MAX_ANSWERS = 10_000
_SHOWN_ANSWERS = 20
_ANSWER_CHARS = 120
_PLACEHOLDERS = frozenset(
    ("n/a", "na", "none", "null", "nan", "todo", "tbd", "...", "…", "-", "?", "<noinput>", "<nooutput>", "undefined")
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a length is distributed.

    Attributes:
        minimum: Smallest.
        median: Half of the rows are not above it.
        p95: 95 % of the rows are not above it.
        maximum: Largest.
        mean: Average.
        histogram: Rows per bin; a bin is named by its largest value (0, 1, 3, 7, 15, …).
    """

    minimum: int
    median: int
    p95: int
    maximum: int
    mean: float
    histogram: dict[str, int]


@dataclass(frozen=True, slots=True)
class AnswerBalance:
    """How the answers are distributed, where they look like classes: at least two rows an answer on average.

    Attributes:
        distinct: Number of different answers.
        top: The most frequent answers with their rows.
        rarest_rows: Rows of the rarest answer.
        entropy_bits: Shannon entropy of the answer's distribution.
        max_entropy_bits: The entropy of as many equally frequent answers.
        unseen_in_train: Test rows whose answer no training row has; None without test rows.
    """

    distinct: int
    top: dict[str, int]
    rarest_rows: int
    entropy_bits: float
    max_entropy_bits: float
    unseen_in_train: int | None


class RowProfile:
    """Gathers the profile of rows one by one. Costs 16 bytes a row and at most `MAX_ANSWERS` answers.

    Args:
        markers: Finds control markers.
    """

    def __init__(self, markers: MarkerSearch) -> None:
        self._markers = markers
        self._lengths = {name: array("I") for name in ("prompt_chars", "prompt_words", "answer_chars", "answer_words")}
        self._scripts: Counter[str] = Counter()
        self._found: dict[str, list[str]] = {"markers": [], "odd": [], "placeholders": []}
        self._counts: Counter[str] = Counter()
        self._answers: Counter[str] | None = Counter()

    def add(self, record: Record, *, question: str, question_words: Sequence[str]) -> None:
        """Take one row into account."""
        answer = answer_text(record)
        prompt_chars, prompt_words, answer_chars, answer_words = self._lengths.values()
        prompt_chars.append(len(question))
        prompt_words.append(len(question_words))
        answer_chars.append(len(answer))
        answer_words.append(len(answer.split() if answer.isascii() else words(answer)))
        self._scripts[script_of(question)] += 1
        if self._answers is not None:
            self._answers[answer] += 1
            if len(self._answers) > MAX_ANSWERS:
                self._answers = None
        whole = f"{question}\n{answer}"
        marker = self._markers.find(whole)
        if marker is not None:
            self._note("markers", record, repr(marker))
        odd = ODD_CHARACTER.search(whole)
        if odd is not None:
            self._note("odd", record, f"U+{ord(odd[0]):04X}")
        if len(answer) < 12 and answer.strip().casefold() in _PLACEHOLDERS:
            self._note("placeholders", record, repr(answer))

    def markers(self) -> Finding:
        """Rows with a control marker in their text."""
        return self._finding("markers")

    def odd_characters(self) -> Finding:
        """Rows with control characters, replacement characters or direction marks."""
        return self._finding("odd")

    def placeholders(self) -> Finding:
        """Rows whose answer stands for 'no answer'."""
        return self._finding("placeholders")

    def lengths(self) -> dict[str, Spread]:
        """Distribution of each length."""
        return {name: spread(values) for name, values in self._lengths.items() if values}

    def scripts(self) -> dict[str, int]:
        """Script of the question -> rows, most frequent first."""
        return dict(sorted(self._scripts.items(), key=lambda item: (-item[1], item[0])))

    def answers(self, test_answers: Counter[str] | None) -> AnswerBalance | None:
        """The answers' balance; None where they do not look like classes."""
        answers = self._answers
        total = len(self._lengths["answer_chars"])
        if not answers or 2 * len(answers) > total:
            return None
        shares = [count / total for count in answers.values()]
        ranked = sorted(answers.items(), key=lambda item: (-item[1], item[0]))
        unseen = None
        if test_answers is not None:
            unseen = sum(count for answer, count in test_answers.items() if answer not in answers)
        return AnswerBalance(
            distinct=len(answers),
            top={_short(answer): count for answer, count in ranked[:_SHOWN_ANSWERS]},
            rarest_rows=ranked[-1][1],
            entropy_bits=-sum(share * math.log2(share) for share in shares) + 0.0,
            max_entropy_bits=math.log2(len(answers)),
            unseen_in_train=unseen,
        )

    def _note(self, kind: str, record: Record, what: str) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < EXAMPLES:
            self._found[kind].append(f"{record.origin}: {what}")

    def _finding(self, kind: str) -> Finding:
        return Finding(self._counts[kind], tuple(self._found[kind]))


def spread(values: Sequence[int]) -> Spread:
    """Distribution of whole numbers, at least one."""
    numbers = np.asarray(values, dtype=np.int64)
    bins = np.bincount(np.ceil(np.log2(numbers + 1)).astype(np.int64))
    return Spread(
        minimum=int(numbers.min()),
        median=int(np.median(numbers)),
        p95=int(np.percentile(numbers, 95, method="higher")),
        maximum=int(numbers.max()),
        mean=float(numbers.mean()),
        histogram={str(2**power - 1): int(count) for power, count in enumerate(bins) if count},
    )


def _short(text: str) -> str:
    return text if len(text) <= _ANSWER_CHARS else f"{text[: _ANSWER_CHARS - 1]}…"
