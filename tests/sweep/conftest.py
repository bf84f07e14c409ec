"""Studies of tiny runs: a base run file, a study file, and the rows they name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.config.document import dump_document
from loratory.sweep.candidates import Candidates, read_candidates
from loratory.sweep.study_file import read_study_file

MakeStudy = Callable[..., Path]
ROWS = [{"instruction": f"question {i % 7}", "input": "", "output": f"code_{i % 3}"} for i in range(24)]


@pytest.fixture(scope="session")
def study_in(tiny_llama_dir: Path) -> MakeStudy:
    """A factory: (folder, dotted overrides of the base, **keys of the sweep section) -> study file."""

    def make(folder: Path, base: dict[str, Any] | None = None, **section: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rows.json").write_text(json.dumps(ROWS))
        run: dict[str, dict[str, Any]] = {
            "model": {"model_name_or_path": str(tiny_llama_dir)},
            "data": {"train": str(folder / "rows.json"), "template": "alpaca", "val_size": 6},
            "adapter": {"rank": 4},
            "train": {"batch_size": 4, "max_steps": 4, "learning_rate": 0.01, "num_threads": 1, "save_steps": 1},
            "predict": {"max_new_tokens": 3},
            "run": {"output_dir": str(folder / "out")},
        }
        for key, value in (base or {}).items():
            where, _, name = key.partition(".")
            run[where][name] = value
        (folder / "run.yaml").write_text(dump_document(run))
        content = {"base": str(folder / "run.yaml"), "space": {"adapter.rank": [2, 4]}, **section}
        path = folder / f"{content.get('name', 'study')}.yaml"
        path.write_text(dump_document({"sweep": content}))
        return path

    return make


@pytest.fixture
def make_study(study_in: Callable[..., Path], tmp_path: Path) -> MakeStudy:
    """A factory: keys of the sweep section -> study file below tmp_path."""
    return lambda base=None, **section: study_in(tmp_path, base, **section)


@pytest.fixture
def make_found(make_study: MakeStudy) -> Callable[..., Candidates]:
    """A factory: keys of the sweep section -> the study's candidates."""
    return lambda base=None, **section: read_candidates(read_study_file(make_study(base, **section)))
