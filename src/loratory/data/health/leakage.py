"""Test questions that the training rows already hold: the same text, the same words, a long run of words, or nearly so.

The test questions are indexed first; training rows then stream past. Memory grows with the test rows only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loratory.data.health.ledger import EXAMPLES, text_digest

NGRAM_WORDS = 13
FREQUENT = 10
"""A run of words in more rows than this is boilerplate, as in GPT-3's overlap analysis (Brown et al. 2020, app. C)."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """Test rows found among the training rows, each counted once under the strongest kind.

    Attributes:
        test_rows: Test rows compared.
        exact: Questions that are a training row's, up to case and spaces.
        normalised: The same words, punctuation aside too.
        ngram: A run of 13 words in common.
        near: At least 0.8 of words and word pairs in common (MinHash estimate).
        examples: The first few, with places.
        near_examples: The first few of kind `near`.
    """

    test_rows: int
    exact: int
    normalised: int
    ngram: int
    near: int
    examples: tuple[str, ...]
    near_examples: tuple[str, ...]

    @property
    def count(self) -> int:
        """Test rows that leaked: exact, normalised and n-gram."""
        return self.exact + self.normalised + self.ngram


class QuestionIndex:
    """The test questions, for training rows to be held against."""

    def __init__(self) -> None:
        self._places: list[str] = []
        self._exact: dict[int, list[int]] = {}
        self._normalised: dict[int, list[int]] = {}
        self._numbers: dict[str, int] = {}
        self._holders: list[list[int]] = []
        self._train_counts: list[int] = []
        self._train_places: list[str] = []
        self._found: dict[str, dict[int, str]] = {"exact": {}, "normalised": {}}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, question: str, words: Sequence[str], place: str) -> None:
        """Index one test question."""
        index = len(self._places)
        self._places.append(place)
        self._exact.setdefault(_plain_digest(question), []).append(index)
        self._normalised.setdefault(text_digest(" ".join(words)), []).append(index)
        for ngram in set(_ngrams(words)):
            number = self._numbers.setdefault(ngram, len(self._holders))
            if number == len(self._holders):
                self._holders.append([])
                self._train_counts.append(0)
                self._train_places.append("")
            self._holders[number].append(index)

    def hold_against(self, question: str, words: Sequence[str], place: str) -> None:
        """Compare one training question."""
        for kind, index, digest in (
            ("exact", self._exact, _plain_digest(question)),
            ("normalised", self._normalised, text_digest(" ".join(words))),
        ):
            for row in index.get(digest, ()):
                self._found[kind].setdefault(row, place)
        if self._numbers and len(words) >= NGRAM_WORDS:
            for ngram in set(_ngrams(words)) & self._numbers.keys():
                number = self._numbers[ngram]
                self._train_counts[number] += 1
                self._train_places[number] = self._train_places[number] or place

    def result(self, near: dict[int, str]) -> Leakage:
        """What leaked.

        Args:
            near: Test row -> place of the training row that it resembles.
        """
        ngram: dict[int, str] = {}
        for number, holders in enumerate(self._holders):
            if 0 < self._train_counts[number] <= FREQUENT and len(holders) <= FREQUENT:
                for row in holders:
                    ngram.setdefault(row, self._train_places[number])
        kinds = {**self._found, "ngram": ngram, "near": near}
        strongest: dict[int, str] = {}
        for kind, rows in kinds.items():
            for row in rows:
                strongest.setdefault(row, kind)
        count = {kind: sum(each == kind for each in strongest.values()) for kind in kinds}

        def examples(wanted: set[str]) -> tuple[str, ...]:
            chosen = sorted(row for row, kind in strongest.items() if kind in wanted)[:EXAMPLES]
            return tuple(f"{self._places[row]} is in {kinds[strongest[row]][row]} ({strongest[row]})" for row in chosen)

        return Leakage(
            test_rows=len(self._places),
            **count,
            examples=examples({"exact", "normalised", "ngram"}),
            near_examples=examples({"near"}),
        )


def _ngrams(words: Sequence[str]) -> Iterable[str]:
    return (" ".join(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1))


def _plain_digest(text: str) -> int:
    return text_digest(" ".join(text.split()).casefold())
