"""Regular expressions from users and from adapter files, matched within limits.

A pattern in a file from elsewhere may be built to backtrack for hours; here its length and its time are bounded.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import regex  # type: ignore[import-untyped]

from loratory.errors import AdapterError

MAX_PATTERN_CHARS = 500
TIMEOUT_S = 1.0
SHORTEST_S = 1e-3
Number = TypeVar("Number", int, float)
PLAIN_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def is_plain_name(text: str) -> bool:
    """Whether the text is a module name (letters, digits, `_`, `-`, dots) and not a regular expression."""
    return bool(text) and set(text) <= PLAIN_NAME_CHARS


def ends_with_any(full: str, names: Sequence[str]) -> bool:
    """Whether the full name is one of the names or ends with "." and one of them, as PEFT matches names."""
    return any(full == name or full.endswith(f".{name}") for name in names)


def match_names(pattern: str, names: Sequence[str], *, key: str) -> list[str]:
    """The names that the whole pattern matches, in their order.

    Args:
        pattern: A regular expression, matched against the full name.
        names: Full module names.
        key: Configuration key to name in an error.

    Raises:
        AdapterError: The pattern is too long, malformed, or takes longer than a second.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise AdapterError(
            f"{key}: the regular expression has {len(pattern)} characters; allowed are {MAX_PATTERN_CHARS}"
        )
    try:
        compiled = regex.compile(pattern)
        deadline = time.monotonic() + TIMEOUT_S
        return [
            name for name in names if compiled.fullmatch(name, timeout=max(deadline - time.monotonic(), SHORTEST_S))
        ]
    except regex.error as fault:
        raise AdapterError(f"{key}: {pattern!r} is not a regular expression: {fault}") from fault
    except TimeoutError as fault:
        raise AdapterError(
            f"{key}: matching {pattern!r} took longer than {TIMEOUT_S:g} s; write a simpler one or a list of names"
        ) from fault


def expand_pattern(pattern: Mapping[str, Number], names: Sequence[str], *, key: str) -> dict[str, Number]:
    """Resolve a `rank_pattern` or `alpha_pattern` to literal names.

    Args:
        pattern: Name or regular expression -> number. As in PEFT a key stands for the end of a full name, and the
            first key that matches counts.
        names: Full names of the targeted modules.
        key: Configuration key to name in an error.

    Returns:
        Full name -> number for each module that a key matches; keys that are plain names stay as they are.

    Raises:
        AdapterError: A key that matches no targeted module, or a bad expression.
    """
    found: dict[str, Number] = {}
    for entry, number in pattern.items():
        if is_plain_name(entry):
            matched = [name for name in names if ends_with_any(name, [entry])]
        else:
            matched = match_names(rf"(?:.*\.)?(?:{entry})", names, key=key)
        if not matched:
            leaves = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise AdapterError(f"{key}: {entry!r} matches no targeted module; targeted are {', '.join(leaves)}")
        for name in [entry] if is_plain_name(entry) else matched:
            found.setdefault(name, number)
    return found
