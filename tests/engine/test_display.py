import io

import pytest
from rich.console import Console

from loratory.engine.display import (
    BarDisplay,
    PlainDisplay,
    SilentDisplay,
    describe_evaluation,
    duration,
    make_display,
)

VALUES = {"step": 1, "loss": 1.25, "tokens_per_s": 1234.5}


def test_plain_lines_come_first_last_and_rarely_between() -> None:
    out = io.StringIO()
    display = make_display(Console(file=out, width=200), total_steps=50, first_step=0, is_main=True)
    assert isinstance(display, PlainDisplay)
    with display:
        for step in range(1, 51):
            display.update(step, VALUES)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/50  loss 1.2500  1,234 tokens/s")
    assert "GiB" in lines[0]
    assert lines[1].startswith("step 50/50")


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    display = make_display(console, total_steps=3, first_step=0, is_main=True)
    assert isinstance(display, BarDisplay)
    with display:
        display.update(2, VALUES)
        display.note("[a note]")
    assert "2/3" in out.getvalue()
    assert "loss 1.2500" in out.getvalue()
    assert "[a note]" in out.getvalue()


def test_other_ranks_are_silent() -> None:
    display = make_display(Console(file=io.StringIO()), total_steps=3, first_step=0, is_main=False)
    assert type(display) is SilentDisplay


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3725, "1:02:05"), (float("nan"), "?")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_reward_stays_until_the_next_rollout() -> None:
    out = io.StringIO()
    display = make_display(Console(file=out, width=200), total_steps=2, first_step=0, is_main=True)
    display.update(1, {"loss": 0.5, "reward": 0.25, "kl_per_answer": 0.125, "entropy": 3.0})
    display.update(2, {"loss": 0.4})
    first, second = out.getvalue().splitlines()
    assert first.startswith("step 1/2  loss 0.5000  reward 0.250  KL 0.125 per answer  ")
    assert second.startswith("step 2/2  loss 0.4000  reward 0.250  KL 0.125 per answer  ")


def test_an_evaluation_says_what_the_objective_measures() -> None:
    pairs = {"step": 3, "eval_loss": 0.5, "eval_accuracy": 0.75, "eval_reward_margin": 0.1, "eval_calibration": 1}
    assert describe_evaluation(pairs) == "evaluation loss 0.5000  accuracy 0.75  margin 0.100"
    assert describe_evaluation({"eval_loss": -0.25, "eval_reward": 0.25}) == "evaluation reward 0.250"
