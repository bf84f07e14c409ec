"""What a subset is balanced by: a field of the row, or a small expression over one.

    output                      the field's text
    output:prefix(_)            the text before the first `_` (the family of an answer code)
    output:first(|):prefix(_)   steps follow one another
    input:length(0,20,50)       characters, in bins from 0, from 20, from 50
    source                      the file the row is in

There is nothing to evaluate: a field name and steps from a fixed list.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from loratory.data.health.text import question_of, script_of
from loratory.data.records import Record
from loratory.errors import ConfigError, DataError, suggest

_STEP = re.compile(r":(?P<name>[a-z]+)(?:\((?P<argument>.*?)\)(?=:[a-z]+(?:\(|:|$)|$))?")
_RECORD_FIELDS = ("source", "prompt", "answer", "script")
_STEPS = "prefix(MARK), first(MARK), last(MARK), count(MARK), length(BINS), words(BINS), lower"


@dataclass(frozen=True, slots=True)
class Stratum:
    """A parsed expression.

    Attributes:
        expression: As it was written.
        field: The field it begins with.
        steps: What is done to the text, in order.
    """

    expression: str
    field: str
    steps: tuple[Callable[[str], str], ...]

    def of(self, record: Record, row: Mapping[str, object]) -> str:
        """The class of a row.

        Raises:
            DataError: The row has no such field, or it holds something else than text; names the place.
        """
        text = self._text(record, row)
        for step in self.steps:
            text = step(text)
        return text

    def _text(self, record: Record, row: Mapping[str, object]) -> str:
        value = row.get(self.field)
        if isinstance(value, str):
            return value
        if self.field in row:
            if value is None or isinstance(value, list | dict):
                kind = "null" if value is None else "a list or an object"
                raise DataError(f"{record.origin}:{self.field}: holds {kind}; rows are balanced by a text")
            return str(value)
        if self.field in record.fields:
            return record.fields[self.field]
        match self.field:
            case "source":
                return record.origin.file
            case "prompt":
                return question_of(record)
            case "answer":
                return record.answer or ""
            case "script":
                return script_of(question_of(record))
        names = [*map(str, row), *_RECORD_FIELDS]
        raise DataError(
            f"{record.origin}: --by: the row has no field '{self.field}'.{suggest(self.field, names)} "
            f"It has {', '.join(map(str, row))}; always there are {', '.join(_RECORD_FIELDS)}."
        )


def parse_stratum(expression: str) -> Stratum:
    """Parse an expression.

    Raises:
        ConfigError: It does not follow the form, names an unknown step, or a step's argument does not fit.
    """
    field, colon, rest = expression.partition(":")
    steps = []
    position, text = 0, colon + rest
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise ConfigError(
                f"--by: cannot read '{expression}' at '{text[position:]}'; the form is FIELD:STEP:STEP…, "
                f"with steps {_STEPS}"
            )
        steps.append(_step(match["name"], match["argument"], expression))
        position = match.end()
    if not field:
        raise ConfigError(f"--by: '{expression}' names no field; the form is FIELD or FIELD:STEP, with steps {_STEPS}")
    return Stratum(expression, field, tuple(steps))


def _step(name: str, argument: str | None, expression: str) -> Callable[[str], str]:
    if name in ("length", "words"):
        return _binned(len if name == "length" else lambda text: len(text.split()), argument, expression)
    if name == "lower" and argument is None:
        return str.lower
    if name not in ("prefix", "first", "last", "count"):
        known = ("prefix", "first", "last", "count", "length", "words", "lower")
        raise ConfigError(f"--by: '{expression}': unknown step '{name}'.{suggest(name, known)} Steps: {_STEPS}")
    if not argument:
        raise ConfigError(f"--by: '{expression}': {name} needs the mark in brackets, e.g. {name}(_)")
    mark = argument
    if name == "last":
        return lambda text: text.rpartition(mark)[2]
    if name == "count":
        return lambda text: str(text.count(mark))
    return lambda text: text.partition(mark)[0]


def _binned(measure: Callable[[str], int], argument: str | None, expression: str) -> Callable[[str], str]:
    try:
        edges = [int(part) for part in (argument or "").split(",")]
    except ValueError:
        edges = []
    if not edges or edges != sorted(set(edges)) or edges[0] < 0:
        raise ConfigError(
            f"--by: '{expression}': bins are whole numbers in rising order, each the start of a bin, e.g. (0,20,50)"
        )
    if edges[0] != 0:
        edges.insert(0, 0)
    names = [f"{start}-{end - 1}" for start, end in pairwise(edges)] + [f"{edges[-1]}+"]
    return lambda text: names[bisect_right(edges, measure(text)) - 1]
