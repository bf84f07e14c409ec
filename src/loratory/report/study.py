"""A study as `loratory sweep` left it: which runs to report, and what it says about them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.errors import IntegrityError, RunError

STUDY_FILE = "study.json"


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: Its name.
        metric: What its trials are judged by.
        words: What it says, a sentence each.
        trials: As `loratory sweep` wrote them, the best first.
    """

    name: str
    metric: str
    words: tuple[str, ...]
    trials: tuple[dict[str, Any], ...]


def open_studies(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Study, ...]]:
    """Put the runs of finished trials in the place of each study's folder.

    Args:
        paths: Run directories and folders of studies.

    Raises:
        IntegrityError: A study's file is damaged.
        RunError: No trial of a study has come to its end.
    """
    runs: list[Path] = []
    studies: list[Study] = []
    for path in paths:
        if not (path / STUDY_FILE).is_file():
            runs.append(path)
            continue
        study = _read(path / STUDY_FILE)
        ended = [path / run for trial in study.trials if trial["value"] is not None for run in trial["runs"]]
        if not ended:
            raise RunError(f"{path}: no trial of study '{study.name}' has come to its end yet; see loratory sweep show")
        runs += [run for run in ended if run.is_dir()]
        studies.append(study)
    return tuple(runs), tuple(studies)


def _read(path: Path) -> Study:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Study(content["name"], content["metric"], tuple(content["words"]), tuple(content["trials"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); loratory sweep --resume writes it anew") from error
