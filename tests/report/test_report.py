"""The page and its twin: complete, inert against hostile texts, the same for the same runs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from forged_runs import forge_run, with_faults
from loratory.errors import ConfigError, DataError, IntegrityError, RunError
from loratory.report import write_report
from loratory.report.predictions import questions

LABELS = [f"code_{i % 5}" for i in range(60)]
METRICS = ("exact_match", "macro_f1")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \u2028 | `x` 'q' \""


class Elements(HTMLParser):
    """Counts elements, and keeps the text of scripts and attributes that could fetch or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.active: list[tuple[str, str | None]] = []
        self.ids: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name == "href" and value and value.startswith("#"):
                self.anchors.add(value[1:])
            elif name in {"src", "href", "action", "srcset", "data"} or name.startswith("on"):
                self.active.append((name, value))


def embedded(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="answer-data">(.*?)</script>', page, re.DOTALL)
    assert match
    found = json.loads(match.group(1))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        forge_run(tmp_path / "a", with_faults(LABELS, range(30)), LABELS, rank=4, base=["no idea"] * 60),
        forge_run(tmp_path / "b", with_faults(LABELS, range(6)), LABELS, rank=8),
        forge_run(tmp_path / "c", with_faults(LABELS, range(4)), LABELS, rank=8, seed=2),
        forge_run(tmp_path / "d", with_faults(LABELS, range(28)), LABELS, rank=4, seed=2),
    ]


def test_every_section_is_there(runs: list[Path], tmp_path: Path) -> None:
    written = write_report(runs, tmp_path / "out" / "report.html", metrics=METRICS)
    page, twin = written.page.read_text(), written.markdown.read_text()
    elements = Elements(page)
    assert {
        "result",
        "runs",
        "scores",
        "curves",
        "differences",
        "importance",
        "classes",
        "answers",
        "data",
    } <= elements.ids
    assert elements.anchors <= elements.ids
    assert elements.active == []  # nothing is fetched, nothing runs from an attribute
    assert elements.tags["script"] == 2
    assert elements.tags["svg"] >= 3
    for words in ("b better than a by 40.0 ± ", "adapter.rank", "macro_f1"):
        assert words in page
        assert words.replace("_", r"\_") in twin
    assert "## Errors by class" in twin
    answers = embedded(page)
    assert [each["title"] for each in answers["columns"]] == ["base", "a", "b", "c", "d"]  # type: ignore[attr-defined]


def test_rank_is_what_mattered(runs: list[Path], tmp_path: Path) -> None:
    content = write_report(runs, tmp_path / "r.html", metrics=METRICS).content
    shares = {each.key: each for each in content.importance}
    # Values 50, 90, 93.3, 53.3: of total variance, ranks explain 40² over 40² + 3.33², seeds the rest.
    assert shares["adapter.rank"].share == pytest.approx(40**2 / (40**2 + (10 / 3) ** 2))
    assert shares["train.seed"].share == pytest.approx((10 / 3) ** 2 / (40**2 + (10 / 3) ** 2))
    assert shares["adapter.rank"].by_chance == pytest.approx(1 / 3)


def test_two_runs_say_nothing_about_importance(runs: list[Path], tmp_path: Path) -> None:
    content = write_report(runs[:2], tmp_path / "r.html", metrics=METRICS).content
    assert [(each.key, each.share) for each in content.importance] == [("adapter.rank", None)]
    assert "cannot be said" in (tmp_path / "r.html").read_text()


def test_keys_that_change_together_are_named(tmp_path: Path) -> None:
    paths = [
        forge_run(tmp_path / name, with_faults(LABELS, range(n)), LABELS, rank=n, config={"train": {"batch_size": n}})
        for name, n in (("a", 2), ("b", 4), ("c", 8), ("d", 16))
    ]
    content = write_report(paths, tmp_path / "r.html", metrics=METRICS).content
    found = {each.key: each for each in content.importance}
    assert found["adapter.rank"].together_with == ("train.batch_size",)
    assert found["adapter.rank"].measure == "rank correlation²"
    assert found["adapter.rank"].share == pytest.approx(1.0)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    """Markup in questions, labels, answers, names and settings reaches the reader as text."""
    asked = [HOSTILE, *(f"question {i}" for i in range(59))]
    first = forge_run(tmp_path / "a<b>", [HOSTILE] * 60, [HOSTILE, *LABELS[1:]], questions=asked)
    second = forge_run(
        tmp_path / "c", LABELS, [HOSTILE, *LABELS[1:]], questions=asked, config={"data": {"system": HOSTILE}}
    )
    written = write_report([first, second], tmp_path / "r.html", metrics=("exact_match",), title="<b>title")
    page = written.page.read_text()
    elements = Elements(page)
    assert (elements.tags["script"], elements.tags.get("img"), elements.tags.get("b")) == (2, None, None)
    assert elements.active == []
    assert "\u2028" not in page.split('id="answer-data">')[1]
    texts = embedded(page)["texts"]
    assert HOSTILE in texts  # type: ignore[operator]
    assert "&lt;img src=x" in page  # the setting, in a table
    twin = written.markdown.read_text()
    assert not re.search(r"(?<!\\)<(script|img|b)", twin)
    rows = [line for line in twin.splitlines() if line.startswith("| 1 |")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


def test_a_lone_surrogate_does_not_stop_the_report(tmp_path: Path) -> None:
    path = forge_run(tmp_path / "a", ["\ud800x", *LABELS[1:]], LABELS)
    written = write_report([path], tmp_path / "r.html", metrics=("exact_match",))
    assert r"\ud800x" in written.page.read_text()


def test_equal_runs_give_equal_bytes(runs: list[Path], tmp_path: Path) -> None:
    first = write_report(runs, tmp_path / "r.html", metrics=METRICS).page.read_bytes()
    assert write_report(runs, tmp_path / "s.html", metrics=METRICS).page.read_bytes() == first


def test_a_single_run(runs: list[Path], tmp_path: Path) -> None:
    page = write_report(runs[1:2], tmp_path / "r.html", metrics=METRICS).page.read_text()
    assert "b: exact_match 90.0 %" in page
    assert {"curves", "answers", "classes"} <= Elements(page).ids
    assert "differences" not in Elements(page).ids


def test_runs_without_predictions_are_shown_without_scores(runs: list[Path], tmp_path: Path) -> None:
    bare = forge_run(tmp_path / "bare", None, LABELS)
    content = write_report([*runs, bare], tmp_path / "r.html", metrics=METRICS).content
    assert content.notes == (
        f"bare has no predictions, so it has no scores: loratory predict {bare} --data data/test.json",
    )
    alone = write_report([bare], tmp_path / "s.html")
    assert alone.content.comparison is None
    assert {"curves", "runs"} <= Elements(alone.page.read_text()).ids


def test_what_cannot_be_reported(runs: list[Path], tmp_path: Path) -> None:
    empty = forge_run(tmp_path / "empty", None, LABELS, is_finished=False, losses=())
    with pytest.raises(RunError, match=r"empty: nothing to report: no logged step"):
        write_report([*runs, empty], tmp_path / "r.html")
    with pytest.raises(ConfigError, match=r"must end in \.html"):
        write_report(runs, tmp_path / "r.pdf")
    other = forge_run(tmp_path / "other", LABELS[:9], LABELS[:9])
    with pytest.raises(DataError, match="tested on different rows"):
        write_report([*runs, other], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_certificates_of_a_runs_adapter_are_found(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "final_model" / "loratory_adapter.json").write_text('{"tensors_sha256": "abc"}')
    (tmp_path / "merged").mkdir()
    measured = {"relative_logit_difference": 1e-6, "mean_kl_nats": 2e-11, "top1_agreement": 1.0}
    (tmp_path / "merged" / "merge_certificate.json").write_text(
        json.dumps({"adapter_sha256": "abc", "dtype": "float32", "measured": measured})
    )
    written = write_report(runs, tmp_path / "r.html", metrics=METRICS)
    assert [(each.run, each.path.parent.name) for each in written.content.certificates] == [("a", "merged")]
    assert "2.0e-11" in written.page.read_text()


def test_questions_are_prompts_without_their_template(runs: list[Path]) -> None:
    from loratory.infer.predict import read_predictions

    rows = read_predictions(runs[0] / "predictions" / "test" / "generated_predictions.jsonl")
    assert questions(rows)[3] == "Question 3 of code_3?"


def study_json(folder: Path, **changes: object) -> None:
    trial = {
        "name": "trial-000", "params": {"adapter.rank": 8, "train.learning_rate": 0.0005, "adapter.use_dora": True},
        "setting": "", "state": "complete", "value": 90.0, "spread": 1.5, "steps": 3, "seconds": 2.0, "reason": "",
        "runs": ["b"],
    }  # fmt: skip
    failed = {**trial, "name": "trial-001", "state": "failed", "value": None, "spread": None, "reason": "<no> memory"}
    content = {"name": "ranks", "metric": "exact_match", "words": ["best: trial-000"], "trials": [trial, failed]}
    (folder / "study.json").write_text(json.dumps({**content, **changes}))


def test_a_studys_folder_stands_for_its_finished_trials(runs: list[Path], tmp_path: Path) -> None:
    study_json(tmp_path)
    written = write_report([tmp_path], tmp_path / "r.html", metrics=METRICS)
    assert [run.name for run in written.content.runs] == ["b"]
    page, twin = written.page.read_text(), written.markdown.read_text()
    assert "<title>Study ranks</title>" in page
    assert "study" in Elements(page).ids
    assert "<li>best: trial-000</li>" in page
    assert 'data-v="0.0005"' in page
    assert "90.0000 ± 1.5000" in page
    assert "&lt;no&gt; memory" in page
    assert "## Study" in twin
    together = write_report([tmp_path, runs[0]], tmp_path / "s.html", metrics=METRICS)
    assert [run.name for run in together.content.runs] == ["b", "a"]


def test_a_study_without_an_end_or_with_a_damaged_file_is_refused(tmp_path: Path) -> None:
    study_json(tmp_path, trials=[])
    with pytest.raises(RunError, match="no trial of study 'ranks' has come to its end"):
        write_report([tmp_path], tmp_path / "r.html")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"study\.json: cannot be read"):
        write_report([tmp_path], tmp_path / "r.html")


def test_many_runs_without_predictions_are_one_note(tmp_path: Path) -> None:
    paths = [forge_run(tmp_path / f"r{i}", None, LABELS, rank=i) for i in range(9)]
    (note,) = write_report(paths, tmp_path / "r.html").content.notes
    assert note.startswith("9 runs have no predictions, so they have no scores (r0, r1, ")
