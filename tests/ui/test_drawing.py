"""What the page shows is text: nothing that a run, a row or a model says becomes markup."""

import re
from html.parser import HTMLParser
from pathlib import Path

from forged_runs import forge_run
from loratory.ui.answers import read_answer_table
from loratory.ui.drawing import answers_html, comparison_html, faults_html, list_html, problem_html, run_html, talk_html
from loratory.ui.laboratory import Laboratory
from loratory.ui.listing import RunRow
from loratory.ui.talk import Exchange

EVIL = "<img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Names of the elements and of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def row(**changes: object) -> RunRow:
    values = {
        "name": "run", "state": "failed", "reason": EVIL, "progress": 0.5, "latest": {"step": 3.0, "loss": 1.25},
        "base": EVIL, "method": EVIL, "seed": EVIL, "changed_s": 100.0,
    }  # fmt: skip
    return RunRow(**{**values, **changes})  # type: ignore[arg-type]


def test_nothing_becomes_markup(tmp_path: Path) -> None:
    labels = [EVIL, "b"]
    run = forge_run(tmp_path / "run", [EVIL, "b"], labels, questions=[EVIL, "c"])
    drawn = [
        list_html([row()], chosen="run", now_s=160.0),
        run_html(row(), [{"step": 1, "loss": 2.0}]),
        answers_html(read_answer_table([run]).find("all rows", "")),
        faults_html([EVIL]),
        problem_html(EVIL),
        talk_html([Exchange(EVIL, EVIL, EVIL), Exchange(EVIL, EVIL, None)]),
        comparison_html(Laboratory(tmp_path).compare(["run"])),
    ]
    for text in drawn:
        tags = Tags(text)
        assert "img" not in tags.names
        assert not {name for name in tags.attributes if name.startswith("on")}
        assert "alert(1)" in text or text is drawn[-1]


def test_the_list_says_state_progress_and_age() -> None:
    text = list_html([row(reason="")], chosen=None, now_s=160.0)
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "run failed 50 % 1.2500" in words
    assert "60 s ago" in words
    assert 'data-run="run"' in text
    assert "No runs here yet" in list_html([], chosen=None, now_s=0.0)


def test_a_run_shows_the_curves_that_it_has() -> None:
    lines = [{"step": step, "loss": 1.0 / step, "tokens_per_s": 10.0} for step in range(1, 200)]
    text = run_html(row(), lines)
    assert text.count("<svg") == 2
    assert "Tokens per second" in text
    assert "Evaluation loss" not in text
