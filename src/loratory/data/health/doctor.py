"""The check itself: test rows are indexed, training rows stream past, the findings are summed up once."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from loratory.data.faults import FaultLog, RowFault
from loratory.data.health.leakage import QuestionIndex
from loratory.data.health.ledger import EXAMPLES, Finding, RowLedger, answer_text
from loratory.data.health.profile import MAX_ANSWERS, RowProfile
from loratory.data.health.report import HealthReport, Limits, exceeded
from loratory.data.health.sketches import Sketches
from loratory.data.health.text import MarkerSearch, question_of, words
from loratory.data.health.tokens import TokenProfile
from loratory.data.record_stream import RecordStream
from loratory.data.records import Origin, Record
from loratory.data.templates import BoundTemplate
from loratory.errors import DataError

_PROGRESS_ROWS = 10_000


class Doctor:
    """Examines rows one by one.

    Test rows come first, then training rows, then `report`.

    Args:
        limits: What is tolerated.
        near: Whether to look for near-duplicates (needs the `doctor` extra).
        special_tokens: The tokenizer's special tokens, which no row text should hold.
        template: Counts tokens under it.
        cutoff_len: The length limit that goes with the template.

    Raises:
        MissingExtraError: If near-duplicates are wanted and the library for them is not installed.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        near: bool = True,
        special_tokens: Sequence[str] = (),
        template: BoundTemplate | None = None,
        cutoff_len: int = 1024,
    ) -> None:
        self._limits = limits or Limits()
        self._faults = FaultLog()
        self._test_faults = FaultLog()
        self._ledger = RowLedger()
        self._profile = RowProfile(MarkerSearch(tuple(special_tokens)))
        self._sketches = Sketches() if near else None
        self._tokens = TokenProfile(template, cutoff_len) if template is not None else None
        self._questions = QuestionIndex()
        self._test_prompts: list[int] = []
        self._test_answers: Counter[str] = Counter()
        self._started = time.perf_counter()

    def learn_test(self, row: Record | RowFault, origin: Origin) -> None:
        """Index a test row."""
        assert len(self._ledger) == 0, "test rows come before training rows"
        if isinstance(row, RowFault):
            self._test_faults.add(origin, row)
            return
        question = question_of(row)
        question_words = words(question)
        self._questions.add(question, question_words, str(origin))
        answer = answer_text(row)
        if answer in self._test_answers or len(self._test_answers) < MAX_ANSWERS:
            self._test_answers[answer] += 1
        if self._sketches is not None:
            self._sketches.add(question_words)
            self._test_prompts.append(int(row.prompt_key[:16], 16))

    def examine(self, row: Record | RowFault, origin: Origin) -> None:
        """Examine a training row."""
        if isinstance(row, RowFault):
            self._faults.add(origin, row)
            return
        question = question_of(row)
        question_words = words(question)
        self._ledger.add(row)
        self._profile.add(row, question=question, question_words=question_words)
        if self._sketches is not None:
            self._sketches.add(question_words)
        if self._questions:
            self._questions.hold_against(question, question_words, str(origin))
        if self._tokens is not None:
            self._tokens.add(row)

    def report(self, files: Sequence[str], test_files: Sequence[str] = ()) -> HealthReport:
        """Sum up.

        Args:
            files: Names of what was examined, for the report.
            test_files: Names of what it was compared with.
        """
        near, near_test = self._near()
        leakage = self._questions.result(near_test) if len(self._questions) else None
        duplicates, conflicts = self._ledger.duplicates(), self._ledger.conflicts()
        markers = self._profile.markers()
        tokens = self._tokens.result() if self._tokens is not None else None
        kept = len(self._ledger)
        read = kept + self._faults.total
        found = {
            "bad_rows": (self._faults.total, read),
            "duplicates": (duplicates.count, kept),
            "conflicts": (conflicts.count, kept),
            "markers": (markers.count, kept),
        }
        if near is not None:
            found["near_duplicates"] = (near.count, kept)
        if leakage is not None:
            found["leakage"] = (leakage.count, leakage.test_rows)
            found["near_leakage"] = (leakage.near, leakage.test_rows)
        if tokens is not None:
            found["truncated"] = (tokens.over_cutoff.count, kept)
        faults = list(exceeded(found, self._limits))
        if tokens is not None and tokens.unsupervised.count + tokens.refused.count:
            count = tokens.unsupervised.count + tokens.refused.count
            faults.append(f"untrainable: {count:,} of {kept:,} rows give nothing to train on under this template")
        if kept == 0:
            faults.append("no row can be used")
        seconds = time.perf_counter() - self._started
        return HealthReport(
            files=tuple(files),
            test_files=tuple(test_files),
            rows_read=read,
            rows_kept=kept,
            bad_rows=dict(self._faults.counts),
            bad_examples=self._faults.frozen_examples(),
            bad_test_rows=self._test_faults.total,
            duplicates=duplicates,
            near_duplicates=near,
            conflicts=conflicts,
            markers=markers,
            odd_characters=self._profile.odd_characters(),
            placeholders=self._profile.placeholders(),
            leakage=leakage,
            scripts=self._profile.scripts(),
            lengths=self._profile.lengths(),
            answers=self._profile.answers(self._test_answers if leakage is not None else None),
            tokens=tokens,
            limits=self._limits,
            faults=tuple(faults),
            seconds=seconds,
            rows_per_s=(read + len(self._questions)) / seconds if seconds else 0.0,
        )

    def _near(self) -> tuple[Finding | None, dict[int, str]]:
        if self._sketches is None:
            return None, {}
        num_test = len(self._test_prompts)
        groups = np.concatenate([np.array(self._test_prompts, dtype=np.uint64), self._ledger.prompts()])
        within, across = self._sketches.similar(groups, num_test=num_test)
        place = self._ledger.place
        examples = [
            f"{place(row - num_test)} resembles {place(other - num_test)}"
            for row, other in sorted(within.items())[:EXAMPLES]
        ]
        return Finding(len(within), tuple(examples)), {test: place(row - num_test) for test, row in across.items()}


def check_streams(
    doctor: Doctor,
    streams: Iterable[RecordStream],
    test_streams: Iterable[RecordStream] = (),
    *,
    on_progress: Callable[[int], None] | None = None,
) -> HealthReport:
    """Examine whole sources.

    Args:
        doctor: A fresh one.
        streams: Training rows.
        test_streams: Test rows.
        on_progress: Called with the number of rows examined so far, now and then.

    Raises:
        DataError: If a source cannot be read at all (as opposed to single bad rows).
    """
    streams, test_streams = list(streams), list(test_streams)
    done = 0
    for group, take in ((test_streams, doctor.learn_test), (streams, doctor.examine)):
        for stream in group:
            for origin, _, row in stream:
                take(row, origin)
                done += 1
                if on_progress is not None and done % _PROGRESS_ROWS == 0:
                    on_progress(done)
    if not streams:
        raise DataError("no file to check")
    return doctor.report([stream.source for stream in streams], [stream.source for stream in test_streams])
