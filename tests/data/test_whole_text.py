"""Rows of plain text: read, laid out without a template, cut at their end, split by their own words."""

import json
from pathlib import Path

import pytest
from template_conformance import metaspace_tokenizer
from transformers import PreTrainedTokenizerFast

from loratory.data.health.text import question_of
from loratory.data.length import fit_length
from loratory.data.reader import read_records
from loratory.data.records import Origin, Record, Turn
from loratory.data.row_forms import choose_form
from loratory.data.split import split_validation
from loratory.data.templates import bind_template
from loratory.errors import DataError, TemplateError


def text_row(text: str) -> Record:
    return Record((Turn("assistant", text),), Origin("rows.jsonl", 1))


def write_rows(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_text_column_alone_is_a_row_of_text(tmp_path: Path) -> None:
    read = read_records(write_rows(tmp_path / "rows.jsonl", {"text": " a\nb "}, {"text": "c"}))
    assert read.report.form == "text"
    assert [record.turns for record in read.records] == [(Turn("assistant", " a\nb "),), (Turn("assistant", "c"),)]
    assert all(record.is_text for record in read.records)


def test_a_rendered_text_beside_its_fields_is_left_alone(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", {"instruction": "q", "output": "a", "text": "q a"})
    assert read_records(source).report.form == "alpaca"
    assert read_records(source, format="text").records[0].answer == "q a"
    assert read_records(source, format="text", columns={"text": "output"}).records[0].answer == "a"


def test_text_beside_other_fields_is_not_guessed(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", {"text": "where is my card?", "label": "card_arrival"})
    with pytest.raises(DataError, match=r"unless data\.format is text"):
        read_records(source)
    assert read_records(source, format="text").report.rows_kept == 1


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty text"):
        read_records(write_rows(tmp_path / "rows.jsonl", {"text": " "}))
    with pytest.raises(DataError, match="no system prompt"):
        choose_form({"text": "t"}, name="auto", columns={}, system="Be brief.", require_answer=True, file="rows.jsonl")


@pytest.mark.parametrize("name", ["auto", "alpaca", "plain", "llamafactory_default"])
def test_all_of_the_text_is_trained_under_no_template(name: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template(name, tiny_tokenizer)
    sequence = template.sequence(text_row("What is the answer?"))
    assert tiny_tokenizer.decode(sequence.token_ids[:-1]) == "What is the answer?"
    assert sequence.token_ids[-1] == template.stop_token_ids[0]
    assert sequence.weights.tolist() == [0.0, *[1.0] * (len(sequence) - 1)]
    assert sequence.prompt_length == 0
    assert len(bind_template(name, tiny_tokenizer, add_eos_token=False).sequence(text_row("What is"))) < len(sequence)


@pytest.mark.parametrize("name", ["chat", "alpaca"])
def test_the_tokenizers_own_opening_stands_once_before_the_text(name: str) -> None:
    tokenizer = metaspace_tokenizer()
    ids = bind_template(name, tokenizer, add_eos_token=False).sequence(text_row("the answer")).token_ids.tolist()
    assert ids == tokenizer("the answer")["input_ids"]


def test_control_strings_in_the_text_stay_text(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    template = bind_template("plain", tiny_tokenizer, add_eos_token=False)
    ids = template.sequence(text_row("a<|im_end|>b")).token_ids.tolist()
    assert tiny_tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert tiny_tokenizer.decode(ids) == "a<|im_end|>b"


def test_there_is_nothing_to_predict(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TemplateError, match="no prompt"):
        bind_template("plain", tiny_tokenizer).generation_prompt(text_row("the"))


def test_truncation_cuts_the_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    sequence = bind_template("plain", tiny_tokenizer).sequence(text_row("The quick brown fox 0123456789"))
    result = fit_length([sequence], cutoff_len=8, truncation="truncate")
    assert result.counts.num_truncated == 1
    assert result.sequences[0].token_ids.tolist() == sequence.token_ids[:8].tolist()


def test_each_text_is_a_question_of_its_own() -> None:
    rows = [text_row(f"text {i}") for i in range(20)]
    assert len({row.prompt_key for row in rows}) == 20
    train, validation = split_validation(rows, 5)
    assert (len(train), len(validation)) == (15, 5)
    assert question_of(rows[3]) == "text 3"
