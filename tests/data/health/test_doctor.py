"""The doctor: each kind of fault is found, counted and placed; healthy rows give no fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from loratory.data.health.doctor import Doctor, check_streams
from loratory.data.health.report import HealthReport, Limits
from loratory.data.record_stream import RecordStream
from loratory.data.row_file import value_text
from loratory.data.templates import bind_template

LONG = "please tell me how I can cancel the second roaming pack of my wife before it renews"


def row(question: str, answer: object = "a_1") -> dict[str, Any]:
    return {"instruction": question, "output": answer}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return path


def check(folder: Path, rows: list[Any], test: list[Any] | None = None, **options: Any) -> HealthReport:
    streams = [RecordStream(str(write(folder / "train.jsonl", rows)))]
    tested = [RecordStream(str(write(folder / "test.jsonl", test)))] if test is not None else []
    return check_streams(Doctor(**options), streams, tested)


def test_healthy_rows_have_no_fault(tmp_path: Path) -> None:
    report = check(tmp_path, [row("cancel my plan", "a"), row("open an account", "b")], [row("what is new", "a")])
    assert report.faults == ()
    assert report.rows_read == report.rows_kept == 2
    assert report.leakage is not None
    assert report.leakage.count == report.leakage.near == 0


def test_bad_rows_are_counted_with_line_and_field_and_the_walk_goes_on(tmp_path: Path) -> None:
    rows = [row("q1"), row("q2", ""), row("q3", None), row("q4", 7), {"instruction": "q5"}, [1], row("q6")]
    report = check(tmp_path, rows)
    assert (report.rows_read, report.rows_kept) == (7, 2)
    assert report.bad_rows == {"empty answer": 1, "not text": 2, "missing field": 1, "row is not an object": 1}
    assert report.bad_examples["empty answer"][0].startswith(f"{tmp_path}/train.jsonl:2:output: ")
    assert any("bad rows: 5 of 7" in fault for fault in report.faults)
    assert check(tmp_path, rows, limits=Limits(bad_rows=5)).faults == ()


def test_duplicates_and_conflicts(tmp_path: Path) -> None:
    rows = [row("Cancel  it", "a"), row("other", "a"), row("cancel it", "a"), row("CANCEL it", "b"), row("other", "a")]
    report = check(tmp_path, rows)
    assert report.duplicates.count == 2
    assert report.duplicates.examples[0] == f"{tmp_path}/train.jsonl:3 repeats {tmp_path}/train.jsonl:1"
    assert report.conflicts.count == 3
    assert report.conflicts.examples == (f"{tmp_path}/train.jsonl:4 answers otherwise than {tmp_path}/train.jsonl:1",)
    assert {fault.split(":")[0] for fault in report.faults} == {"duplicates", "conflicts"}


@given(rows=st.lists(st.tuples(st.sampled_from("pqrs"), st.sampled_from("ab")), min_size=1, max_size=30))
def test_duplicates_and_conflicts_are_those_of_a_plain_count(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    report = check(tmp_path_factory.mktemp("rows"), [row(*each) for each in rows], near=False)
    answers = {prompt: {a for p, a in rows if p == prompt} for prompt, _ in rows}
    assert report.duplicates.count == len(rows) - len(set(rows))
    assert report.conflicts.count == sum(len(answers[prompt]) > 1 for prompt, _ in rows)


def test_near_duplicates(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(16)]
    changed = " ".join([*words[:-1], "seventeen"])
    report = check(tmp_path, [row(" ".join(words)), row("something else entirely"), row(changed)])
    assert report.near_duplicates is not None
    assert report.near_duplicates.count == 1
    assert report.near_duplicates.examples == (f"{tmp_path}/train.jsonl:3 resembles {tmp_path}/train.jsonl:1",)
    assert report.duplicates.count == 0
    assert check(tmp_path, [row("?"), row("!"), row("...")]).near_duplicates.count == 0  # type: ignore[union-attr]
    assert check(tmp_path, [row("x")], near=False).near_duplicates is None


@pytest.mark.parametrize(
    ("train", "kind"),
    [
        (LONG, "exact"),
        (LONG.upper().replace(" ", "  "), "exact"),
        (f"{LONG.upper()}!", "normalised"),
        (f"hello there, {' '.join(LONG.split()[:13])} and do other quite different things as well today", "ngram"),
        (LONG.replace("renews", "ends").replace("please ", ""), "ngram"),
    ],
)
def test_leaked_test_rows(tmp_path: Path, train: str, kind: str) -> None:
    report = check(tmp_path, [row("unrelated words here"), row(train)], [row(LONG), row("a question of its own")])
    assert report.leakage is not None
    assert {name: getattr(report.leakage, name) for name in ("exact", "normalised", "ngram")} == {
        name: int(name == kind) for name in ("exact", "normalised", "ngram")
    }
    assert report.leakage.examples == (f"{tmp_path}/test.jsonl:1 is in {tmp_path}/train.jsonl:2 ({kind})",)
    assert any(fault.startswith("leakage: 1 of 2") for fault in report.faults)


def test_a_paraphrase_is_reported_and_judged_on_request(tmp_path: Path) -> None:
    asked, learnt = "how do i cancel the travel pack of my phone now", "how do i cancel the travel pack of my phone"
    report = check(tmp_path, [row(learnt), row("x y z")], [row(asked)])
    assert report.leakage is not None
    assert (report.leakage.count, report.leakage.near) == (0, 1)
    assert report.faults == ()
    judged = check(tmp_path, [row(learnt)], [row(asked)], limits=Limits(near_leakage=0))
    assert judged.faults == ("near leakage: 1 of 1 rows; allowed 0 (--max-near-leakage)",)


def test_boilerplate_is_no_leakage(tmp_path: Path) -> None:
    frame = " ".join(f"rule{i}" for i in range(20))
    train = [row(f"{frame} item number {i} of kind {i * 7}") for i in range(12)]
    report = check(tmp_path, train, [row(f"{frame} quite another ending in every respect whatsoever my friend")])
    assert report.leakage is not None
    assert report.leakage.ngram == 0


def test_markers_odd_characters_and_placeholders(tmp_path: Path) -> None:
    rows = [
        row("say <|im_start|>system"),
        row("fine <b>bold</b> [1]", "ok"),
        row("odd\x00", "x"),
        row("left", "\ufffd"),
        row("none", " N/A "),
        row("mine <|mine|>", "y"),
    ]
    report = check(tmp_path, rows)
    assert (report.markers.count, report.odd_characters.count, report.placeholders.count) == (1, 2, 1)
    assert report.markers.examples == (f"{tmp_path}/train.jsonl:1: '<|im_start|>'",)
    assert check(tmp_path, rows, special_tokens=("<|mine|>",)).markers.count == 2


def test_profile_of_scripts_lengths_and_answers(tmp_path: Path) -> None:
    rows = [row("请问如何取消流量包", "a"), row("как дела", "a"), row("hello", "a"), row("123", "b")]
    report = check(tmp_path, rows, [row("new", "c")])
    assert report.scripts == {"Cyrillic": 1, "Han": 1, "Latin": 1, "none": 1}
    assert report.lengths["prompt_words"].maximum == 9
    assert report.lengths["prompt_chars"].histogram == {"3": 1, "7": 1, "15": 2}
    assert report.answers is not None
    assert report.answers.top == {"a": 3, "b": 1}
    assert report.answers.entropy_bits == pytest.approx(0.811278, abs=1e-6)
    assert report.answers.unseen_in_train == 1
    assert check(tmp_path, [row("q", "x"), row("r", "y")]).answers is None


def test_tokens_against_the_cut_off(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template("chat", tiny_tokenizer)
    rows = [row("hi", "a"), row("hi " * 60, "b"), row("q", "word " * 60)]
    report = check(tmp_path, rows, template=template, cutoff_len=48)
    tokens = report.tokens
    assert tokens is not None
    sequences = [template.sequence(record) for _, _, record in RecordStream(str(tmp_path / "train.jsonl"))]  # type: ignore[arg-type]
    assert tokens.num_tokens == sum(map(len, sequences))
    assert tokens.num_supervised == sum(each.num_supervised for each in sequences)
    assert (tokens.over_cutoff.count, tokens.answers_cut) == (2, 1)
    assert any(fault.startswith("truncated: 2 of 3") for fault in report.faults)


def test_the_json_report_is_plain_json_with_a_version(tmp_path: Path) -> None:
    report = check(tmp_path, [row("a b c"), row("a b c")], [row("a b c")])
    document = json.loads(value_text(report.as_dict()))
    assert document["schema_version"] == 1
    assert document["leakage"]["exact"] == 1
    assert document["duplicates"] == {"count": 1, "examples": list(report.duplicates.examples)}


def test_real_banking77_has_test_questions_among_its_training_rows(shared_data: Path) -> None:
    folder = shared_data / "banking77"
    columns = {"instruction": "text", "output": "category"}
    streams = [RecordStream(str(folder / f"{n}.csv"), format="alpaca", columns=columns) for n in ("train", "test")]
    report = check_streams(Doctor(), streams[:1], streams[1:])
    assert (report.rows_read, report.rows_kept, report.duplicates.count) == (10003, 10003, 4)
    assert report.leakage is not None
    assert (report.leakage.exact, report.leakage.normalised) == (7, 18)
    assert report.answers is not None
    assert report.answers.distinct == 77
