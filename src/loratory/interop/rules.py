"""Ready rules for settings that need no thought: the same thing under another name, of no influence, not possible.

Each function returns a table from setting to rule, so that a tool's rules are such tables joined.
"""

from collections.abc import Callable, Mapping
from typing import Any

from loratory.interop.draft import Draft, Rule
from loratory.interop.training_arguments import FOREIGN_NAMES

Table = dict[str, Rule]

_OFF_WORDS = frozenset({"", "no", "none", "off", "false", "null"})


def is_off(value: object) -> bool:
    """Whether a value switches something off or leaves it out."""
    if isinstance(value, str):
        return value.strip().casefold() in _OFF_WORDS
    return value is None or value is False or value == 0 or value in ([], {})


def to(key: str, convert: Callable[[Any], object] | None = None) -> Rule:
    """The value goes to one of our fields."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        draft.put(key, convert(value) if convert is not None else value, origin=name)

    return rule


def same_name(section: str, *names: str) -> Table:
    """Settings that one of our sections has under the same name."""
    return {name: to(f"{section}.{name}") for name in names}


def known_elsewhere(*names: str) -> Table:
    """Settings with the meaning and values of one of our fields, as `training_arguments` lists them."""
    return {name: to(FOREIGN_NAMES[name]) for name in names}


def ignored(reason: str, *names: str) -> Table:
    """Settings without influence on the result."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        draft.report("ignored", name, reason)

    return dict.fromkeys(names, rule)


def not_honoured(reason: str, *names: str) -> Table:
    """Settings that change the result, and that there is nothing like here; no finding where they are off."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if not is_off(value):
            draft.report("not honoured", name, reason)

    return dict.fromkeys(names, rule)


def approximated(reason: str, *names: str) -> Table:
    """Settings that are done in nearly the same way; no finding where they are off."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if not is_off(value):
            draft.report("approximated", name, reason)

    return dict.fromkeys(names, rule)


def only(allowed: tuple[object, ...], reason: str, *names: str) -> Table:
    """Settings of which we do some values, without a field for them."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        if value not in allowed:
            draft.report("not honoured", name, reason)

    return dict.fromkeys(names, rule)


def together(*names: str) -> Table:
    """Settings whose meaning hangs on others; the tool's `finish` reads them."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        pass

    return dict.fromkeys(names, rule)


def choice(key: str, words: Mapping[str, str], *, fallback: str) -> Rule:
    """One of our words for one of theirs; for others the nearest, as a finding."""

    def rule(draft: Draft, name: str, value: Any) -> None:
        word = words.get(str(value))
        if word is None:
            draft.report("not honoured", name, f"there is no {value!r} here; {fallback} is taken")
        draft.put(key, word or fallback, origin=name)

    return rule


def names_of(value: object) -> list[str]:
    """The names in a list or in a text with commas."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def targets_of(value: object) -> str | list[str]:
    """Target modules: a list of names, 'all', or one regular expression."""
    if isinstance(value, str) and value in {"all", "all-linear"}:
        return "all"
    if isinstance(value, str) and any(mark in value for mark in "*|()[]\\^$+?"):
        return value
    return names_of(value)
