"""The telecom data set: deterministic, unequal, without duplicates or leakage, nested cuts that keep shares."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from loratory.demo.intents import FAMILY_PERCENT, PRODUCTS, Goal, goals
from loratory.demo.phrasing import phrase
from loratory.demo.telecom import (
    TelecomFiles,
    TelecomRow,
    cut,
    generate_telecom,
    telecom_rows,
)

SHA256 = {
    "train.json": "a4b862ce38f58b9fbe26af3ff8bc5f9f966cf3d37456788beaae865acba4d04b",
    "test.json": "d8977d8877d0223b29444219020439a6384e4f696ed5a222d3728c7f901e2e3d",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TelecomFiles:
    return generate_telecom(tmp_path_factory.mktemp("telecom"))


def codes(answer: str) -> tuple[str, ...]:
    """The answer codes of an output, without the prices between them."""
    return tuple(part for part in answer.split("|") if "_" in part)


def rows_of(path: Path) -> list[TelecomRow]:
    return [TelecomRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def prompt_of(row: TelecomRow) -> str:
    return " ".join(f"{row.instruction} {row.input}".split()).casefold()


def test_bytes_are_pinned(files: TelecomFiles) -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (files.train, files.test)}
    assert found == SHA256


def test_another_seed_gives_other_rows_and_the_same_counts() -> None:
    train, test = telecom_rows(seed=1)
    default_train, default_test = telecom_rows()
    assert (train, test) != (default_train, default_test)
    answers = Counter(row.output for row in [*train, *test])
    assert answers == Counter(row.output for row in [*default_train, *default_test])


def test_counts_and_codes(files: TelecomFiles) -> None:
    train, test = rows_of(files.train), rows_of(files.test)
    assert len(train) >= 1500
    assert len(test) >= 150
    assert len({code for row in train for code in codes(row.output)}) >= 40
    several = sum(len(codes(row.output)) > 1 for row in train) / len(train)
    assert 0.2 <= several <= 0.3
    long = sum(len(row.output) > 10 for row in test) / len(test)
    assert 0.3 <= long <= 0.8
    assert any(row.input for row in train)


def test_shares_are_unequal_and_every_test_answer_was_trained_on(files: TelecomFiles) -> None:
    train, test = (
        Counter(row.output for row in rows_of(files.train)),
        Counter(row.output for row in rows_of(files.test)),
    )
    shares = [count for _, count in train.most_common()]
    assert shares[0] > 10 * shares[-1]
    assert shares[0] < 0.1 * sum(shares)
    assert set(test) <= set(train)


def test_no_prompt_twice_and_no_leakage(files: TelecomFiles) -> None:
    train, test = ([prompt_of(row) for row in rows_of(path)] for path in (files.train, files.test))
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)
    assert not set(train) & set(test)


def test_cuts_are_nested_and_keep_shares(files: TelecomFiles) -> None:
    train = rows_of(files.train)
    cut_400, cut_100 = rows_of(files.train_cuts[400]), rows_of(files.train_cuts[100])
    assert (len(cut_400), len(cut_100)) == (400, 100)
    assert set(cut_100) <= set(cut_400) <= set(train)
    assert len(rows_of(files.test_cut)) == 100
    whole, part = Counter(row.output for row in train), Counter(row.output for row in cut_400)
    for answer, count in whole.items():
        assert abs(part[answer] - count * 400 / len(train)) < 1, answer


def test_dataset_info_names_existing_files_and_columns(files: TelecomFiles) -> None:
    info = json.loads(files.dataset_info.read_text(encoding="utf-8"))
    assert {"telecom_train", "telecom_test", "telecom_train_400", "telecom_train_100"} <= set(info)
    for entry in info.values():
        row = json.loads((files.dataset_info.parent / entry["file_name"]).read_text(encoding="utf-8"))[0]
        assert sorted(entry["columns"].values()) == sorted(row)


def test_the_card_says_that_the_data_are_synthetic_and_free(files: TelecomFiles) -> None:
    card = files.card.read_text(encoding="utf-8")
    assert "synthetic" in card
    assert "CC0" in card


def test_goal_shares_sum_to_one_and_answers_are_distinct() -> None:
    found = goals()
    assert sum(FAMILY_PERCENT.values()) == 100
    assert sum(goal.share for goal in found) == 1
    assert len({goal.answer for goal in found}) == len(found)


@pytest.mark.parametrize("goal", goals(), ids=lambda goal: goal.answer)
def test_each_goal_has_many_phrasings(goal: Goal) -> None:
    rng = random.Random(7)
    questions = {phrase(goal, rng)[0] for _ in range(100)}
    assert len(questions) > 60
    assert not any("{" in question for question in questions)


def test_names_of_products_are_unambiguous() -> None:
    names = [name.casefold() for product in PRODUCTS for name in product.names]
    assert len(set(names)) == len(names)
    assert not {product.vague.casefold() for product in PRODUCTS} & set(names)


def test_cut_keeps_order_and_shares() -> None:
    rows = [TelecomRow(str(i), "", "a" if i % 4 else "b") for i in range(8)]
    assert cut(rows, 4) == [rows[0], rows[1], rows[2], rows[3]]
