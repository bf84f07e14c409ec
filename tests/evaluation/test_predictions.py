"""Scoring a predictions file end to end."""

import json
from pathlib import Path

import pytest

from loratory.errors import DataError
from loratory.evaluation.predictions import score_file, write_scores
from loratory.infer.predict import Prediction, write_predictions


def test_score_file_and_write_scores(tmp_path: Path) -> None:
    rows = [Prediction("p", "activate_98|intro_111", "activate_98|intro_111 "), Prediction("p", "cancel", "keep")]
    write_predictions(tmp_path / "generated_predictions.jsonl", rows)
    scores = score_file(tmp_path / "generated_predictions.jsonl").scores
    assert scores["exact_match"].value == 50.0
    assert scores["exact_match_long"].n == 1
    write_scores(tmp_path / "scores.json", scores)
    read = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert read["exact_match"]["n"] == 2
    assert read["bleu-4"]["definition"].startswith("character-level BLEU-4")
    assert read["rouge-1"]["low"] <= read["rouge-1"]["value"] <= read["rouge-1"]["high"]


def test_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such predictions file"):
        score_file(tmp_path / "none.jsonl")
