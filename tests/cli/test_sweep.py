"""`loratory sweep` as a user types it, and what it refuses."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from loratory.cli.app import make_app
from loratory.config.document import dump_document


def run(*arguments: object) -> Any:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments], env={"COLUMNS": "200"})


def write_study(folder: Path, model: Path, **section: Any) -> Path:
    rows = [{"instruction": f"question {i % 7}", "input": "", "output": f"code_{i % 3}"} for i in range(16)]
    (folder / "rows.json").write_text(json.dumps(rows))
    base = {
        "model": {"model_name_or_path": str(model)},
        "data": {"train": str(folder / "rows.json"), "template": "alpaca", "val_size": 4},
        "train": {"batch_size": 4, "max_steps": 2, "num_threads": 1},
        "run": {"output_dir": str(folder / "out")},
    }
    (folder / "run.yaml").write_text(dump_document(base))
    path = folder / "study.yaml"
    path.write_text(
        dump_document({"sweep": {"base": str(folder / "run.yaml"), "space": {"adapter.rank": [2, 4]}, **section}})
    )
    return path


def test_a_study_from_its_file_to_its_report(tiny_llama_dir: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, tiny_llama_dir, concurrent=True, control=2)
    done = run("sweep", study)
    assert done.exit_code == 0, done.output
    for words in ("trial 0: rank=2", "trial-001: complete at step 2, eval_loss", "best: trial-00", "noise: the base"):
        assert words in done.output
    assert f"run directory: {tmp_path}/out/study/trial-00" in done.output
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    shown = run("sweep", "show", study)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    again = run("sweep", study)
    assert (again.exit_code, "with --resume; or rename" in again.output) == (2, True)
    reported = run("report", tmp_path / "out" / "study", "--output", tmp_path / "report.html")
    assert reported.exit_code == 0, reported.output
    page = (tmp_path / "report.html").read_text()
    assert 'id="study"' in page
    assert "noise: the base itself gives" in page
    assert "noise: the base itself gives" in (tmp_path / "report.md").read_text()


def test_bad_studies_are_refused_before_anything_is_written(tiny_llama_dir: Path, tmp_path: Path) -> None:
    for section, code, words in (
        ({"trials": 3}, 2, "sweep.trials: unknown key"),
        ({"metric": "exact_mach"}, 2, "Did you mean 'exact_match'"),
        ({"space": {"adapter.rank": [0, 4]}}, 2, "trial 0: rank=0"),
        ({"base": "nowhere.yaml"}, 2, "nowhere.yaml"),
    ):
        done = run("sweep", write_study(tmp_path, tiny_llama_dir, **section))
        assert done.exit_code == code, done.output
        assert words in done.output
    shown = run("sweep", "show", write_study(tmp_path, tiny_llama_dir))
    assert (shown.exit_code, "begin it with" in shown.output) == (2, True)
    assert not (tmp_path / "out").exists()
