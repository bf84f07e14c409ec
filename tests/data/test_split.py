"""Validation split: by content, no prompt on both sides, adding rows moves none."""

import random

import pytest

from loratory.data.records import Origin, Record, Turn
from loratory.data.split import split_validation
from loratory.errors import DataError


def rows(count: int, *, answers: int = 1) -> list[Record]:
    return [
        Record((Turn("user", f"question {i}"), Turn("assistant", f"answer {j}")), Origin("a.json", i * answers + j + 1))
        for i in range(count)
        for j in range(answers)
    ]


def prompts(records: tuple[Record, ...]) -> set[str]:
    return {record.prompt_key for record in records}


@pytest.mark.parametrize("val_size", [0.1, 0.5, 25])
def test_parts_are_whole_and_apart(val_size: float) -> None:
    data = rows(200, answers=3)
    train, validation = split_validation(data, val_size)
    assert sorted(r.origin.line for r in (*train, *validation)) == list(range(1, 601))
    assert not prompts(train) & prompts(validation)
    for part in (train, validation):
        assert [r.origin.line for r in part] == sorted(r.origin.line for r in part)


def test_share_and_count() -> None:
    data = rows(2000)
    _, validation = split_validation(data, 0.1)
    assert 160 <= len(validation) <= 240
    _, validation = split_validation(data, 100)
    assert len(validation) == 100
    _, validation = split_validation(rows(50, answers=3), 10)
    assert len(validation) == 12  # whole prompts only: the first count that reaches 10
    assert split_validation(data, 0) == (tuple(data), ())


def test_adding_rows_moves_none() -> None:
    data = rows(500)
    before = prompts(split_validation(data[:300], 0.2)[1])
    after = split_validation(data, 0.2)
    assert before <= prompts(after[1])
    assert not before & prompts(after[0])


def test_order_does_not_matter() -> None:
    data = rows(300)
    mixed = random.Random(1).sample(data, len(data))
    for val_size in (0.2, 30):
        assert prompts(split_validation(data, val_size)[1]) == prompts(split_validation(mixed, val_size)[1])


def test_same_prompt_in_other_clothes_stays_together() -> None:
    data = [
        Record((Turn("user", text), Turn("assistant", text)), Origin("a", i))
        for i, text in enumerate([f"Question  {n // 3}" if n % 3 else f"question {n // 3}\n" for n in range(300)])
    ]
    train, validation = split_validation(data, 0.3)
    assert not prompts(train) & prompts(validation)
    assert len(prompts(train) | prompts(validation)) == 100


@pytest.mark.parametrize("val_size", [-1, 1.5, 10, 9, 1e-9])
def test_impossible_sizes(val_size: float) -> None:
    with pytest.raises(DataError, match="val_size"):
        split_validation(rows(9), val_size)
