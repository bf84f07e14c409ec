"""Rewards: what counts as the right answer, and what becomes of a judge that fails."""

import math

import pytest

from loratory.objective.judge import (
    AnsweredPrompt,
    FunctionJudge,
    Unjudged,
    exact_match,
    final_number,
    numeric,
    pattern_rule,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", 42.0),
        ("She has 3 + 4 = 7.\n#### 1,234", 1234.0),
        ("#### $1,234.50", 1234.5),
        ("so 5 apples, then 12.", 12.0),
        ("The answer is -7", -7.0),
        ("0.5 of it", 0.5),
        (".75", 0.75),
        ("It costs $1,000,000!", 1000000.0),
        ("no number", None),
        ("", None),
        ("####", None),
    ],
)
def test_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_numeric() -> None:
    assert numeric("I think 1,200 in all.", "He adds them up. #### 1200") == 1.0
    assert numeric("12.0", "#### 12") == 1.0
    assert numeric("#### 12\nor maybe 13", "#### 12") == 1.0
    assert numeric("13", "#### 12") == 0.0
    assert numeric("none", "#### 12") == 0.0
    assert numeric("none", "none") == 0.0


def test_exact_match_and_pattern() -> None:
    assert exact_match(" cancel_68\n", "cancel_68") == 1.0
    assert exact_match("cancel_6", "cancel_68") == 0.0
    assert pattern_rule(r"^\d+$")("68", "anything") == 1.0
    rule = pattern_rule(r"<answer>(?P<answer>.*?)</answer>")
    assert rule("so <answer> 7 </answer>", "7") == 1.0
    assert rule("so <answer>8</answer>", "7") == 0.0
    assert rule("so 7", "7") == 0.0


def test_a_failing_function_gives_reasons() -> None:
    def reward(prompt: str, answer: str, label: str) -> object:
        return {"raise": 1 / 1, "nan": math.nan, "inf": -math.inf, "text": "good", "none": None, "yes": True}[answer]

    answered = [AnsweredPrompt("", name, "") for name in ("raise", "nan", "inf", "text", "none", "yes", "missing")]
    verdicts = FunctionJudge(reward)(answered)  # type: ignore[arg-type]
    assert verdicts[0] == 1.0
    assert verdicts[5] == 1.0
    reasons = [verdict.reason for verdict in verdicts if isinstance(verdict, Unjudged)]
    assert reasons == [
        "it gave nan, which is not finite",
        "it gave -inf, which is not finite",
        "it gave 'good', which is no number",
        "it gave None, which is no number",
        "it raised KeyError: 'missing'",
    ]
