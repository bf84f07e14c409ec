"""Row faults: gathered by reason while a source is read, raised once with places and advice.

A fault never changes a row: a row is used exactly as it stands, or it is refused and named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loratory.data.records import Origin
from loratory.errors import DataError

EXAMPLES_PER_REASON = 5


class RowFault(ValueError):
    """One row that cannot be used.

    Attributes:
        reason: The kind of fault, equal for all rows that share it; what counts are kept by.
        detail: What was found in this row.
        field: The field the fault is in, or None when it concerns the whole row.
    """

    def __init__(self, reason: str, detail: str = "", *, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.field = field


@dataclass(slots=True)
class FaultLog:
    """Counts of faults by reason with the first few places of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, origin: Origin, fault: RowFault) -> None:
        """Note one bad row."""
        self.counts[fault.reason] = self.counts.get(fault.reason, 0) + 1
        places = self.examples.setdefault(fault.reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            where = f"{origin}:{fault.field}" if fault.field else str(origin)
            places.append(f"{where}: {fault.reason}" + (f" ({fault.detail})" if fault.detail else ""))

    @property
    def total(self) -> int:
        """Bad rows so far, all reasons together."""
        return sum(self.counts.values())

    def raise_above(self, allowed: int, *, rows_read: int) -> None:
        """Raise one `DataError` for everything noted when there are more bad rows than allowed."""
        if self.total <= allowed:
            return
        lines = [f"{self.total} of {rows_read} rows cannot be used (data.max_bad_rows allows {allowed}):"]
        for reason, places in self.examples.items():
            lines += [f"  {place}" for place in places]
            hidden = self.counts[reason] - len(places)
            if hidden:
                lines.append(f"  … and {hidden} more rows: {reason}")
        lines.append("Mend the rows, or set data.max_bad_rows to skip and count that many.")
        raise DataError("\n".join(lines))

    def frozen_examples(self) -> Mapping[str, tuple[str, ...]]:
        """The examples as an immutable-valued mapping for a report."""
        return {reason: tuple(places) for reason, places in self.examples.items()}


@dataclass(frozen=True, slots=True)
class JsonNumber:
    """A JSON number as it is written. Rows hold text: only a margin is computed with, the rest is shown in errors."""

    digits: str

    def __str__(self) -> str:
        return self.digits


def show(value: object, *, limit: int = 60) -> str:
    """A value as an error message shows it: its JSON kind and a short literal."""
    kinds = {str: "text", bool: "a truth value", type(None): "null", list: "a list", dict: "an object"}
    kind = kinds.get(type(value), "a number" if isinstance(value, int | float | JsonNumber) else type(value).__name__)
    if value is None:
        return kind
    literal = ascii(value) if isinstance(value, str) else str(value)
    return f"{kind} {literal if len(literal) <= limit else literal[: limit - 1] + '…'}"
