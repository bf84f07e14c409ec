"""The chat of the page, on a run that was really trained."""

import threading
from pathlib import Path

import pytest

from loratory.engine.finished_run import open_chat
from loratory.errors import ConfigError, RunError
from loratory.ui.talk import Exchange, Talk

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def test_base_and_adapter_answer_as_they_do_elsewhere(trained: Path) -> None:
    talk = Talk()
    talk.open(trained / "first", max_new_tokens=6)
    assert talk.has_base
    assert talk.name == "first"
    seen = list(talk.ask("question 1"))
    expected = open_chat(trained / "first", max_new_tokens=6).say_both("question 1")
    assert seen[-1] == (Exchange("question 1", expected[1], expected[0]),)
    assert talk.exchanges == seen[-1]
    grown = [(exchanges[-1].base or "", exchanges[-1].answer) for exchanges in seen]
    assert all(expected[0].startswith(base) and expected[1].startswith(answer) for base, answer in grown)
    assert len(list(talk.ask("question 2"))[-1]) == 2
    talk.forget()
    assert talk.exchanges == ()
    assert list(talk.ask("question 1"))[-1] == seen[-1]
    talk.close()
    with pytest.raises(RunError, match="no model is open"):
        list(talk.ask("question 1"))


def test_one_question_at_a_time_and_whoever_leaves_leaves_nothing_locked(trained: Path) -> None:
    talk = Talk()
    talk.open(trained / "first", max_new_tokens=4)
    asked = talk.ask("question 1")
    next(asked)
    failures: list[str] = []

    def ask_too() -> None:
        try:
            list(talk.ask("question 2"))
        except RunError as error:
            failures.append(str(error))

    other = threading.Thread(target=ask_too)
    other.start()
    other.join()
    assert "busy" in failures[0]
    with pytest.raises(RunError, match="busy"):
        talk.close()
    asked.close()
    assert [each.question for each in talk.exchanges] == ["question 1"]
    assert len(list(talk.ask("question 2"))[-1]) == 2


def test_what_cannot_be_asked_or_opened_is_refused(trained: Path, tmp_path: Path) -> None:
    talk = Talk()
    with pytest.raises(ConfigError, match="no question"):
        list(talk.ask("  "))
    with pytest.raises(RunError, match="not a run directory"):
        talk.open(tmp_path)
    talk.open(trained / "first", max_new_tokens=4)
    with pytest.raises(RunError):
        talk.open(tmp_path / "nothing")
    assert talk.name == ""
