"""What rows become under a template and a length limit: tokens, how many of them are trained, what would be cut."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from loratory.data.health.ledger import EXAMPLES, Finding
from loratory.data.health.profile import Spread, spread
from loratory.data.records import Record
from loratory.data.templates import BoundTemplate
from loratory.errors import TemplateError

_BATCH = 512


@dataclass(frozen=True, slots=True)
class TokenReport:
    """Tokens of the rows.

    Attributes:
        template: Name of the template.
        cutoff_len: The length limit, in tokens.
        rows: Rows that the template can express.
        num_tokens: All their tokens, before the limit.
        num_supervised: Those that are trained.
        lengths: Distribution of the tokens per row.
        over_cutoff: Rows longer than the limit.
        answers_cut: Of these, rows whose answer alone does not fit.
        unsupervised: Rows without a token to train on.
        refused: Rows that the template cannot express.
    """

    template: str
    cutoff_len: int
    rows: int
    num_tokens: int
    num_supervised: int
    lengths: Spread | None
    over_cutoff: Finding
    answers_cut: int
    unsupervised: Finding
    refused: Finding

    @property
    def supervised_share(self) -> float:
        """Trained tokens among all."""
        return self.num_supervised / self.num_tokens if self.num_tokens else 0.0


class TokenProfile:
    """Tokenises rows in batches and counts. Costs 4 bytes a row.

    Args:
        template: The bound template.
        cutoff_len: The length limit.
        alternatives: How a preference pair, which has no answer of its own, becomes rows with one.
    """

    def __init__(self, template: BoundTemplate, cutoff_len: int) -> None:
        self._template = template
        self._cutoff_len = cutoff_len
        self._waiting: list[Record] = []
        self._lengths = array("I")
        self._supervised = self._answers_cut = 0
        self._counts = {"over": 0, "unsupervised": 0, "refused": 0}
        self._found: dict[str, list[str]] = {name: [] for name in self._counts}

    def add(self, record: Record) -> None:
        """Take one row into account."""
        self._waiting.append(record)
        if len(self._waiting) == _BATCH:
            self._flush()

    def result(self) -> TokenReport:
        """The figures of all rows."""
        self._flush()
        return TokenReport(
            template=self._template.name,
            cutoff_len=self._cutoff_len,
            rows=len(self._lengths),
            num_tokens=sum(self._lengths),
            num_supervised=self._supervised,
            lengths=spread(self._lengths) if self._lengths else None,
            over_cutoff=self._finding("over"),
            answers_cut=self._answers_cut,
            unsupervised=self._finding("unsupervised"),
            refused=self._finding("refused"),
        )

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            self._count(batch)
        except TemplateError:
            for record in batch:
                try:
                    self._count([record])
                except TemplateError as error:
                    self._note("refused", str(error))

    def _count(self, records: Sequence[Record]) -> None:
        for record, sequence in zip(records, self._template.sequences(records), strict=True):
            self._lengths.append(len(sequence))
            self._supervised += sequence.num_supervised
            if len(sequence) > self._cutoff_len:
                self._note("over", f"{record.origin}: {len(sequence)} tokens")
                self._answers_cut += len(sequence) - sequence.prompt_length + 1 > self._cutoff_len
            if sequence.num_supervised == 0:
                self._note("unsupervised", f"{record.origin}: no token to train on")

    def _note(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        if len(self._found[kind]) < EXAMPLES:
            self._found[kind].append(example)

    def _finding(self, kind: str) -> Finding:
        return Finding(self._counts[kind], tuple(self._found[kind]))
