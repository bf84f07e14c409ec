"""Predictions: in order, from prompts only, and a file that reads back as it was."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from loratory.data.records import Origin, Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.errors import DataError
from loratory.infer.generate import generate
from loratory.infer.predict import Prediction, predict_records, read_predictions, write_predictions


@dataclass(frozen=True)
class PlainTemplate:
    """The user turn and a stop token, nothing else."""

    tokenizer: PreTrainedTokenizerFast
    stop_token_ids: tuple[int, ...]
    name: str = "plain"

    def generation_prompt(self, record: Record) -> list[int]:
        return list(self.tokenizer.encode(record.prompt[-1].content, add_special_tokens=False))

    def sequence(self, record: Record) -> TokenSequence:
        raise NotImplementedError

    def contract(self) -> dict[str, object]:
        return {"name": self.name}


def record(line: int, prompt: str, answer: str | None) -> Record:
    turns = (Turn("user", prompt),) + ((Turn("assistant", answer),) if answer is not None else ())
    return Record(turns=turns, origin=Origin("rows.json", line))


@pytest.fixture
def template(tiny_tokenizer: PreTrainedTokenizerFast) -> PlainTemplate:
    return PlainTemplate(tiny_tokenizer, (tiny_tokenizer.eos_token_id,))


def test_an_answer_that_was_judged_bad_is_no_label(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, template: PlainTemplate
) -> None:
    records = [replace(record(line, "cancel", "code"), label=label) for line, label in enumerate((True, False, None))]
    rows = predict_records(tiny_llama, tiny_tokenizer, template, records, max_new_tokens=2, batch_size=3)
    assert [row.label for row in rows] == ["code", "", "code"]


def test_predictions_keep_the_order_and_the_label(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, template: PlainTemplate
) -> None:
    records = [record(i, "cancel " * (i + 1), f"label {i}") for i in range(5)] + [record(5, "no label", None)]
    done: list[int] = []
    rows = predict_records(
        tiny_llama, tiny_tokenizer, template, records, max_new_tokens=6, batch_size=2, on_progress=done.append
    )
    assert [row.label for row in rows] == ["label 0", "label 1", "label 2", "label 3", "label 4", ""]
    assert [row.prompt for row in rows] == [r.prompt[-1].content for r in records]
    alone = generate(
        tiny_llama,
        [template.generation_prompt(records[3])],
        stop_token_ids=template.stop_token_ids,
        max_new_tokens=6,
    )
    assert rows[3].predict == tiny_tokenizer.decode(alone[0], skip_special_tokens=True)
    assert done[-1] == 6


def test_too_long_prompt_names_the_row(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, template: PlainTemplate
) -> None:
    with pytest.raises(DataError, match=r"rows\.json:9"):
        predict_records(
            tiny_llama, tiny_tokenizer, template, [record(1, "ok", "a"), record(9, "7" * 510, "a")], max_new_tokens=6
        )


def test_no_rows_is_an_error(
    tiny_llama: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, template: PlainTemplate
) -> None:
    with pytest.raises(DataError, match="no rows"):
        predict_records(tiny_llama, tiny_tokenizer, template, [])


def test_file_reads_back_and_is_not_escaped(tmp_path: Path) -> None:
    rows = [Prediction("提示\u2028", '套餐\n\t"q"', "\u0000ok 🙂"), Prediction("", "", "")]
    path = tmp_path / "deep" / "generated_predictions.jsonl"
    write_predictions(path, rows)
    assert read_predictions(path) == rows
    assert "套餐" in path.read_text(encoding="utf-8")
    assert list(json.loads(path.read_text(encoding="utf-8").split("\n")[0])) == ["prompt", "label", "predict"]
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, [Prediction("a", "b", "c")])
    with pytest.raises(UnicodeEncodeError):
        write_predictions(path, [Prediction("a", "b", "\ud800")])
    assert read_predictions(path) == [Prediction("a", "b", "c")]
    assert [child.name for child in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "p", "label": "l", "predict": "x"}\nnot json\n', r"p\.jsonl:2: not JSON"),
        (b'["a"]\n', "must be an object"),
        (b'{"prompt": "p", "label": 3, "predict": "x"}\n', "missing or not text: label"),
        (b'{"prompt": "p", "label": "l", "label": "m", "predict": "x"}\n', "stands twice"),
        (b"\n\n", "holds no predictions"),
        (b'{"prompt": "\xff"}\n', "byte 12 is not UTF-8"),
        (b"x\n" * 9, "and 4 more bad lines"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_predictions(path)
