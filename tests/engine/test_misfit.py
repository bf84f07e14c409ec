"""A configuration that cannot work with its base is refused before rows are tokenised and weights are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app
from loratory.config import RunConfig, config_to_yaml
from loratory.engine.misfit import refuse_misfit
from loratory.engine.training import run_training
from loratory.errors import AdapterError

MakeConfig = Callable[..., RunConfig]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"adapter.targets": ["q_prj"]}, "'q_prj' matches no linear module"),
    "block": ({"adapter.method": "c3a", "adapter.options": {"block_size": 7}}, "c3a cannot be put on"),
    "rank": ({"adapter.method": "miss", "adapter.options": {"r": 33}}, "miss cannot be put on"),
    "init": ({"adapter.init": "loftq"}, "loftq makes up for the error of 4-bit weights"),
}


@pytest.fixture
def hollow_base(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A base whose weights cannot be read."""
    folder = tmp_path / "hollow"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


@pytest.mark.parametrize("name", FAULTS)
def test_training_and_config_show_and_plan_refuse_without_reading_weights(
    name: str, make_config: MakeConfig, hollow_base: Path, tmp_path: Path
) -> None:
    fields, message = FAULTS[name]
    config = make_config({**fields, "model.model_name_or_path": str(hollow_base)})
    with pytest.raises(AdapterError, match=message):
        run_training(config)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(config_to_yaml(config), encoding="utf-8")
    for verb in (["config", "show", str(run_file)], ["plan", str(run_file), "--no-calibrate"]):
        result = CliRunner().invoke(make_app(), verb)
        assert result.exit_code != 0
        assert message in str(result.exception) + result.stderr, verb


def test_a_sound_configuration_is_counted(make_config: MakeConfig, hollow_base: Path) -> None:
    report = refuse_misfit(make_config({"model.model_name_or_path": str(hollow_base)}), head=None)
    assert report is not None
    assert report.trainable > 0


def test_code_of_its_own_is_left_to_the_load(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    assert refuse_misfit(make_config({"model.model_name_or_path": str(folder)}), head=None) is None


def test_config_show_prints_a_sound_one(make_config: MakeConfig, hollow_base: Path, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(config_to_yaml(make_config({"model.model_name_or_path": str(hollow_base)})), encoding="utf-8")
    result = CliRunner().invoke(make_app(), ["config", "show", str(run_file)])
    assert result.exit_code == 0
    assert "method: lora" in result.stdout
