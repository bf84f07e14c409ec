"""Compare and report over runs that were really trained and really answered."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app
from loratory.config.document import dump_document

ROWS = [{"instruction": f"item {i}", "input": "", "output": f"code_{i % 3}"} for i in range(12)]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def trained(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings, one of them with two seeds, trained and asked by the commands; and the untrained base."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "run.yaml").write_text(
        dump_document(
            {
                "model": {"model_name_or_path": str(tiny_llama_dir)},
                "data": {"train": str(folder / "rows.json"), "test": str(folder / "rows.json"), "template": "alpaca"},
                "train": {"max_steps": 3, "batch_size": 4, "num_threads": 1},
                "predict": {"max_new_tokens": 6},
                "run": {"output_dir": str(folder)},
            }
        )
    )
    for name, rank, seed in (("r2", 2, 1), ("r8-s1", 8, 1), ("r8-s2", 8, 2)):
        done = run("train", folder / "run.yaml", f"adapter.rank={rank}", f"train.seed={seed}", f"run.name={name}")
        assert done.exit_code == 0, done.output
        assert run("predict", folder / name).exit_code == 0
    assert run("predict", folder / "r2", "--base").exit_code == 0
    return folder


def test_compare_and_report(trained: Path) -> None:
    runs = [trained / name for name in ("r2", "r8-s1", "r8-s2")]
    done = run("compare", *runs, "--with-base", "--metrics", "exact_match,item_f1", "--output", trained / "c.json")
    assert done.exit_code == 0, done.output
    assert "adapter.rank" in done.output
    content = json.loads((trained / "c.json").read_text())
    assert content["test_set"]["is_recorded"]
    assert content["test_set"]["num_rows"] == 12
    assert [(each["name"], each["seeds"]) for each in content["settings"]] == [
        ("base", [None]),
        ("r2", [1]),
        ("r8", [1, 2]),
    ]
    cost = content["settings"][1]["cost"]
    assert cost["trainable"] == 2048
    assert all(cost[name] > 0 for name in ("train_seconds", "peak_bytes", "adapter_bytes"))
    assert [each["key"] for each in content["differences"]] == ["adapter.rank"]
    done = run("report", *runs, "--metrics", "exact_match", "--output", trained / "report.html")
    assert done.exit_code == 0, done.output
    page = (trained / "report.html").read_text()
    assert "r8-s2" in page
    assert "item 3" in page
    assert "Evaluation loss" not in page  # there was none


def test_other_rows_and_no_predictions_are_refused(trained: Path, tmp_path: Path) -> None:
    rows = tmp_path / "other.json"
    rows.write_text(json.dumps([{**row, "instruction": f"thing {i}"} for i, row in enumerate(ROWS)]))
    done = run("predict", trained / "r2", "--data", rows)
    assert done.exit_code == 0, done.output
    done = run("compare", trained / "r2", trained / "r8-s1", "--predictions", "other")
    assert done.exit_code == 2
    assert "r8-s1 has rows; make them with: loratory predict" in done.output
    source, target = (trained / name / "predictions" for name in ("r2", "r8-s1"))
    (target / "other").mkdir()
    for file in (target / "rows").iterdir():
        (target / "other" / file.name).write_bytes(file.read_bytes())
    assert (source / "other").is_dir()
    done = run("compare", trained / "r2", trained / "r8-s1", "--predictions", "other")
    assert done.exit_code == 2
    assert "the labels are equal, the questions are not" in done.output


def test_many_settings_are_told_by_what_each_does_otherwise(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.cli.compare.MAX_ACROSS", 1)
    done = run("compare", trained / "r2", trained / "r8-s1")
    assert done.exit_code == 0, done.output
    assert "differs from r2 in" in done.output
    assert "adapter.rank=8" in done.output
