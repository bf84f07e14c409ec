"""`loratory model`: what the verbs print and how they fail."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_CACHE", str(tmp_path / "cache"))


def test_save_as_pickle_show_and_load(tiny_llama_dir: Path, tmp_path: Path) -> None:
    run = CliRunner()
    saved = run.invoke(
        make_app(), ["model", "save", str(tiny_llama_dir), "--output", str(tmp_path), "--format", "pickle"]
    )
    assert saved.exit_code == 0, saved.output
    path = tmp_path / "pruned_model.bin"
    assert path.is_file()
    shown = run.invoke(make_app(), ["model", "show", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "LlamaForCausalLM" in shown.output
    assert "query heads" in shown.output
    loaded = run.invoke(make_app(), ["model", "load", str(path)])
    assert loaded.exit_code == 0, loaded.output
    assert "nats per token" in loaded.output


@pytest.mark.parametrize(
    ("content", "code"), [(b"<html>", 4), (b"\x80\x02cos\nsystem\n.", 3), (b"PK\x03\x04" + b"\0" * 60, 4)]
)
def test_refused_files_have_their_exit_codes(content: bytes, code: int, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    assert CliRunner().invoke(make_app(), ["model", "load", str(tmp_path / "m.bin")]).exit_code == code


def test_unknown_format_and_dtype_are_told_together(tiny_llama_dir: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        make_app(),
        ["model", "save", str(tiny_llama_dir), "--output", str(tmp_path / "x"), "--format", "zip", "--dtype", "int3"],
    )
    assert done.exit_code == 2
    assert "zip" in done.output
    assert "int3" in done.output
