"""Bare rows of pairs and of judged answers, recognised by their fields."""

import json
from pathlib import Path
from typing import Any

import pytest

from loratory.data.reader import read_records
from loratory.data.records import Record
from loratory.errors import DataError

ASK = {"role": "user", "content": "q"}
GOOD, BAD = {"role": "assistant", "content": "good"}, {"from": "gpt", "value": "bad"}


def read(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Record, ...]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return read_records(str(path), **options).records


PAIRS = {
    "prompt": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    "instruction": {"instruction": "q", "chosen": "good", "rejected": "bad"},
    "messages": {"messages": [ASK], "chosen": GOOD, "rejected": BAD},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": BAD | {"value": "good"},
        "rejected": BAD,
    },
    "prompt messages": {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    "whole conversations": {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "an answer beside": {"prompt": "q", "completion": "not read", "chosen": "good", "rejected": "bad"},
}


@pytest.mark.parametrize("kind", list(PAIRS))
def test_pairs(tmp_path: Path, kind: str) -> None:
    (record,) = read(tmp_path, [PAIRS[kind]])
    assert record.alternatives == ("good", "bad")
    assert [turn.content for turn in record.turns] == ["q"]
    assert record.answer is None
    assert record.margin is None


def test_a_pair_keeps_input_system_and_margin(tmp_path: Path) -> None:
    row = {"instruction": "q", "input": "i", "system": "s", "chosen": "good", "rejected": "bad", "margin": 2}
    (record,) = read(tmp_path, [row])
    assert [turn.content for turn in record.turns] == ["s", "q\ni"]
    assert record.fields == {"instruction": "q", "input": "i"}
    assert record.margin == 2.0


LABELLED = {
    "prompt": {"prompt": "q", "completion": "a", "label": False},
    "instruction": {"instruction": "q", "output": "a", "label": False},
    "messages": {"messages": [ASK, GOOD | {"content": "a"}], "label": False},
    "messages twice": {"prompt": [ASK], "completion": [GOOD | {"content": "a"}], "label": False},
}


@pytest.mark.parametrize("kind", list(LABELLED))
def test_judged_answers(tmp_path: Path, kind: str) -> None:
    (record,) = read(tmp_path, [LABELLED[kind]])
    assert (record.turns[0].content, record.answer, record.label) == ("q", "a", False)


def test_a_label_that_is_no_judgement_is_another_field(tmp_path: Path) -> None:
    (record,) = read(tmp_path, [{"instruction": "q", "output": "a", "label": 3}])
    assert record.label is None


FAULTS = {
    "empty answer": ({"prompt": "q", "chosen": "good", "rejected": " "}, "empty answer"),
    "margin": ({"prompt": "q", "chosen": "good", "rejected": "bad", "margin": "wide"}, "margin.*not a number"),
    "not finite": ({"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 10**400}, "not a number"),
    "user's answer": ({"prompt": "q", "chosen": ASK, "rejected": "bad"}, "not an answer"),
    "no question": ({"messages": [ASK, GOOD], "chosen": GOOD, "rejected": BAD}, "no open question"),
    "two prompts": ({"chosen": [ASK, GOOD], "rejected": [ASK | {"content": "p"}, BAD]}, "two prompts"),
    "no prompt": ({"chosen": "good", "rejected": "bad"}, "empty prompt"),
    "missing": ({"prompt": "q", "chosen": "good"}, "rejected"),
}


@pytest.mark.parametrize("kind", list(FAULTS))
def test_faults_of_pairs_name_the_place(tmp_path: Path, kind: str) -> None:
    row, words = FAULTS[kind]
    with pytest.raises(DataError, match=rf"(?s)rows\.json.*{words}"):
        read(tmp_path, [{"prompt": "q", "chosen": "good", "rejected": "bad"}, row] if kind == "missing" else [row])


def test_a_later_label_must_be_a_truth_value(tmp_path: Path) -> None:
    good = {"prompt": "q", "completion": "a", "label": True}
    with pytest.raises(DataError, match="not a truth value"):
        read(tmp_path, [good, good | {"label": "yes"}])


def test_the_demo_files_without_a_register(shared_data: Path) -> None:
    folder = shared_data / "llamafactory_demo"
    pairs = read_records(str(folder / "dpo_en_demo.json"))
    named = read_records("dpo_en_demo", dataset_dir=str(folder))
    assert [(r.turns, r.alternatives) for r in pairs.records] == [(r.turns, r.alternatives) for r in named.records]
    judged = read_records(str(folder / "kto_en_demo.json"))
    assert {record.label for record in judged.records} == {True, False}
    assert len(judged.records) == len(pairs.records) == 300
