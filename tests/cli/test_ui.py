"""`loratory ui` on the command line: what it refuses before anything is opened, and what other verbs do not load."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


def test_other_machines_need_a_key_of_the_users_own(tmp_path: Path) -> None:
    result = invoke("ui", tmp_path, "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--key-file" in result.output
    short = tmp_path / "key"
    short.write_text("short\n")
    result = invoke("ui", tmp_path, "--key-file", short)
    assert result.exit_code == 2
    assert "--key-file" in result.output
    assert "at least 16" in " ".join(result.output.split())


def test_without_gradio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = invoke("ui", tmp_path, "--port", "0")
    assert result.exit_code == 2
    assert "pip install 'loratory[ui]'" in " ".join(result.output.split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_other_verbs_do_not_load_gradio(argument: str) -> None:
    code = (
        "import sys\nfrom loratory.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'gradio', 'torch', 'fastapi', 'pandas'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "light"
