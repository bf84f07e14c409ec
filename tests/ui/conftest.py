"""A tiny run that was really trained."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app
from tiny_run_file import run_file


@pytest.fixture(scope="session")
def trained(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run `first`, made by `loratory train`. Read-only for tests."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "run.yaml").write_text(run_file(folder, tiny_llama_dir, "first"), "utf-8")
    result = CliRunner().invoke(make_app(), ["train", str(folder / "run.yaml"), f"run.output_dir={folder / 'outputs'}"])
    assert result.exit_code == 0, result.output
    return folder / "outputs"
