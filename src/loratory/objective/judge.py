"""What an answer is worth: rewards that can be verified, or that a model or a function of the user's gives.

A judge never stops the run by itself: an answer that it cannot judge has a reason instead of a reward.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loratory.objective.sampled import Policy

# A number as answers write it: thousands commas, decimals, a sign; not the dot that ends a sentence.
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*)?(?:\.\d+|\d)(?!\d)")
_MARKED = re.compile(r"####\s*(.+)")
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """What a judge sees.

    Attributes:
        prompt: Text of the conversation before the answer, turns separated by newlines.
        answer: The policy's answer without special tokens.
        label: The row's own answer; empty when it has none.
        token_ids: Prompt and answer as the policy read and wrote them, its stop token included.
    """

    prompt: str
    answer: str
    label: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unjudged:
    """There is no reward.

    Attributes:
        reason: Why.
    """

    reason: str


Verdict = float | Unjudged


class Judge(Protocol):
    """Rewards of answers.

    Attributes:
        needs_label: Rows without an answer of their own cannot be judged.
    """

    @property
    def needs_label(self) -> bool: ...

    def check(self, policy: Policy) -> None:
        """Refuse a policy whose answers cannot be judged."""
        ...

    def __call__(self, answered: Sequence[AnsweredPrompt]) -> list[Verdict]:
        """A reward or a reason for each, in order."""
        ...


RewardFunction = Callable[[str, str, str], float]


class FunctionJudge:
    """Rewards by a function of (prompt, answer, label), called for each answer.

    What it raises, and what is no finite number, becomes a reason.
    """

    needs_label = False

    def __init__(self, function: RewardFunction) -> None:
        self._function = function

    def check(self, policy: Policy) -> None:
        """Any policy will do."""

    def __call__(self, answered: Sequence[AnsweredPrompt]) -> list[Verdict]:
        """A reward or a reason for each."""
        return [self._verdict(each) for each in answered]

    def _verdict(self, answered: AnsweredPrompt) -> Verdict:
        try:
            value = self._function(answered.prompt, answered.answer, answered.label)
        except Exception as error:  # noqa: BLE001 - foreign code; whatever it raises is counted and shown
            return Unjudged(f"it raised {type(error).__name__}: {error}"[:_MAX_REASON])
        return checked(value)


class VerifiableJudge:
    """A built-in rule."""

    def __init__(self, rule: Callable[[str, str], float], *, needs_label: bool) -> None:
        self._rule = rule
        self.needs_label = needs_label

    def check(self, policy: Policy) -> None:
        """Any policy will do."""

    def __call__(self, answered: Sequence[AnsweredPrompt]) -> list[Verdict]:
        """1.0 or 0.0 for each."""
        return [self._rule(each.answer, each.label) for each in answered]


def checked(value: object) -> Verdict:
    """The value if it is a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return Unjudged(f"it gave {value!r}, which is no number"[:_MAX_REASON])
    return number if math.isfinite(number) else Unjudged(f"it gave {number}, which is not finite")


def exact_match(answer: str, label: str) -> float:
    """1.0 if answer and label are equal up to space at their ends."""
    return float(answer.strip() == label.strip())


def numeric(answer: str, label: str) -> float:
    """1.0 if the answer's final number equals the label's; commas and trailing zeros do not matter."""
    given, wanted = final_number(answer), final_number(label)
    return float(given is not None and wanted is not None and math.isclose(given, wanted, rel_tol=1e-9, abs_tol=1e-9))


def final_number(text: str) -> float | None:
    """The number behind `####` (as GSM8K writes it), else the last number of the text, else None."""
    marked = _MARKED.findall(text)
    numbers = _NUMBER.findall(marked[-1] if marked else text)
    if not numbers:
        return None
    return float((numbers[0] if marked else numbers[-1]).replace(",", ""))


def pattern_rule(pattern: str) -> Callable[[str, str], float]:
    """1.0 if the pattern is found in the answer and its group 'answer', if it has one, equals the label."""
    compiled = re.compile(pattern)
    has_group = "answer" in compiled.groupindex

    def rule(answer: str, label: str) -> float:
        found = compiled.search(answer)
        if found is None:
            return 0.0
        return exact_match(found.group("answer") or "", label) if has_group else 1.0

    return rule
