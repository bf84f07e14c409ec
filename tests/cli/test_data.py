"""The data verbs on the command line: exit codes, reports, what a preview looks like without colour."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app

ROWS = [{"instruction": f"question number {i}", "output": f"{'ab'[i % 2]}_{i % 4}"} for i in range(20)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


@pytest.fixture
def run_file(tmp_path: Path, rows: Path, tiny_llama_dir: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"model:\n  model_name_or_path: {tiny_llama_dir}\ndata:\n  train: {rows}\n", encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), ["data", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_check_exits_0_on_healthy_rows_and_2_above_a_limit(rows: Path, tmp_path: Path) -> None:
    code, output = run("check", rows, "--json", tmp_path / "report.json")
    assert code == 0, output
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["faults"] == []
    code, output = run("check", rows, "--test", rows)
    assert code == 2
    assert "leakage: 20 of 20 rows; allowed 0 (--max-leakage)" in output
    assert run("check", rows, "--test", rows, "--max-leakage", "inf")[0] == 0


def test_check_without_files_or_with_a_bad_column(rows: Path) -> None:
    assert run("check")[0] == 2
    assert run("check", rows, "--column", "output")[0] == 2
    assert run("check", rows.with_name("absent.json"))[0] == 2


def test_check_counts_tokens_with_a_run_file(run_file: Path) -> None:
    code, output = run("check", "--config", run_file, "--cutoff-len", 20)
    assert code == 2
    assert "truncated: 20 of 20 rows" in output
    assert run("check", "--config", run_file)[0] == 0


def test_subset(rows: Path, tmp_path: Path) -> None:
    by = "output:prefix(_)"
    code, output = run(
        "subset", rows, "--by", by, "--size", 8, "--size", 4, "--test-size", 4, "--output", tmp_path / "o"
    )
    assert code == 0, output
    large, small, test = (
        json.loads((tmp_path / "o" / f"{n}.json").read_text()) for n in ("train_8", "train_4", "test_4")
    )
    assert all(row in large for row in small)
    assert not any(row in large for row in test)
    assert sum(row["output"].startswith("a") for row in large) == 4
    assert run("subset", rows, "--by", "outptu", "--size", 4, "--output", tmp_path / "p")[0] == 2


def test_stats_and_preview(run_file: Path, tmp_path: Path) -> None:
    code, output = run("stats", "--config", run_file)
    assert code == 0, output
    assert "not measured" in " ".join(output.split())
    (tmp_path / "metrics.jsonl").write_text('{"tokens_per_s": 10.0}\n', encoding="utf-8")
    assert "10 tokens/s" in " ".join(run("stats", "--config", run_file, "--run", tmp_path)[1].split())
    code, output = run("preview", "--config", run_file, "--rows", 2)
    assert code == 0, output
    assert "rows.json:1: " in output
    assert "[<|im_end|>]" in output
    assert "[question" not in output
