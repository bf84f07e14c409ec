"""`loratory score`: the table, the JSON, and what bad files say."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), ["score", *arguments])
    return result.exit_code, result.output


def lines(*rows: tuple[str, str]) -> str:
    return "".join(json.dumps({"prompt": "p", "label": t, "predict": p}, ensure_ascii=False) + "\n" for t, p in rows)


def test_table_and_json(tmp_path: Path) -> None:
    rows = [
        ("open_1|9.9|x", "open_1|9.9|x"),
        ("open_2|1.0|yyyy", "open_2"),
        ("close_1", "open_1"),
        ("close_2", "close_2"),
    ]
    file = tmp_path / "generated_predictions.jsonl"
    file.write_text(lines(*rows * 2), encoding="utf-8")
    code, output = invoke(str(file), "--output", str(tmp_path / "out" / "scores.json"))
    assert code == 0, output
    for word in ("exact_match", "exact_match_long", "50.00", "item_f1", "by answer", "mostly taken for"):
        assert word in output
    found = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert found["num_rows"] == 8
    assert found["scores"]["exact_match"]["value"] == 50
    assert found["scores"]["exact_match_long"]["n"] == 4
    assert found["scores"]["bleu-4"]["id"] == "bleu-4@nltk-char-method3"
    assert found["predict_results"]["predict_bleu-4"] == found["scores"]["bleu-4"]["value"]
    assert {row["name"] for row in found["classes"]["rows"]} == {"open", "close"} or found["classes"][
        "rule"
    ] == "answer"


def test_metrics_by_id(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(lines(("a b c", "a b d")), encoding="utf-8")
    code, output = invoke(str(file), "--metrics", "rougeL@rouge_score, predict_exact_match")
    assert code == 0, output
    assert "rougeL" in output
    assert "bleu-4" not in output


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no predictions"),
        (lines(("a", "a")) + "{", "p.jsonl:2: not JSON"),
        (lines(("a", "a"), ("", "b")), "1 of 2 rows have no label to compare with, first row 2"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(content, encoding="utf-8")
    code, output = invoke(str(file))
    assert code != 0
    assert words in " ".join(output.split())
