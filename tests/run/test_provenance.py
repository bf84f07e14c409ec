import os
from pathlib import Path

import pytest

from loratory.errors import IntegrityError
from loratory.run.provenance import Provenance, git_revision, installed_versions, read_provenance, write_provenance


def test_provenance_holds_what_it_should_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecrettoken")
    path = tmp_path / "provenance.json"
    write_provenance(
        path,
        Provenance(
            run_id="r",
            base_identity="b" * 64,
            data={"train": "d" * 64},
            template={"name": "alpaca"},
            threads=1,
            num_processes=1,
            trainable_parameters=8,
            total_parameters=80,
        ),
    )
    content = read_provenance(path)
    assert content["data"] == {"train": "d" * 64}
    assert content["template"] == {"name": "alpaca"}
    assert content["versions"] == installed_versions()
    text = path.read_text()
    assert "hf_verysecrettoken" not in text
    assert os.path.expanduser("~") + "/" not in text


def test_versions_name_torch() -> None:
    assert "torch" in installed_versions()


def test_git_revision_is_a_hash_or_nothing() -> None:
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40


def test_unreadable_provenance(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        read_provenance(tmp_path / "provenance.json")
    (tmp_path / "provenance.json").write_text("[]")
    with pytest.raises(IntegrityError, match="not a JSON object"):
        read_provenance(tmp_path / "provenance.json")
