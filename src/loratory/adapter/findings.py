"""What an examination found: sentences with a weight each, and the verdict that follows from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from loratory.errors import LoratoryError

Weight = Literal["fine", "doubt", "fault"]
Verdict = Literal["sound", "doubtful", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What: "files", "base", "shapes", "values", "effect", "alpha", …
        weight: fine, doubt (usable, but look) or fault (do not use).
        text: What was found.
    """

    topic: str
    weight: Weight
    text: str


@dataclass(slots=True)
class Findings:
    """A list of findings that grows while something is examined."""

    items: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """broken with any fault, doubtful with any doubt, else sound."""
        weights = {finding.weight for finding in self.items}
        return "broken" if "fault" in weights else "doubtful" if "doubt" in weights else "sound"

    def add(self, topic: str, weight: Weight, text: str) -> None:
        """Note a finding."""
        self.items.append(Finding(topic, weight, text))

    @contextmanager
    def collecting(self, topic: str) -> Iterator[None]:
        """Within: an expected error becomes a fault of the topic, and what is left of the block is skipped."""
        try:
            yield
        except LoratoryError as error:
            self.add(topic, "fault", str(error))
