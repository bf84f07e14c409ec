"""The text metric of a finished run is that of its ordinary predictions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.testing

from loratory.cli.app import make_app
from loratory.errors import ConfigError
from loratory.sweep.candidates import Candidates
from loratory.sweep.scoring import score_run

MakeFound = Callable[..., Candidates]


def test_the_score_is_that_of_predict_and_bad_metrics_are_named(make_found: MakeFound, tmp_path: Path) -> None:
    found = make_found()
    (config,) = found.configs(0, found.listed[0])
    (tmp_path / "trial.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    invoke = typer.testing.CliRunner().invoke
    done = invoke(make_app(), ["train", str(tmp_path / "trial.yaml")])
    assert done.exit_code == 0, done.output
    run_dir, rows = found.folder / "trial-000", str(tmp_path / "rows.json")
    value = score_run(run_dir, config, rows, "rouge-1")
    folder = run_dir / "predictions" / "rows"
    mine = (folder / "generated_predictions.jsonl").read_bytes(), (folder / "test_set.json").read_bytes()
    assert json.loads((folder / "text_metrics.json").read_text())["rouge-1"]["value"] == value
    done = invoke(make_app(), ["predict", str(run_dir), "--data", rows])
    assert done.exit_code == 0, done.output
    assert ((folder / "generated_predictions.jsonl").read_bytes(), (folder / "test_set.json").read_bytes()) == mine
    with pytest.raises(ConfigError, match=r"sweep\.metric: macro_f2 is not among the scores"):
        score_run(run_dir, config, rows, "macro_f2")
