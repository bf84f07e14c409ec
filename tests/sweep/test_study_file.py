"""The study file: strict reading, every fault in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import ConfigError
from loratory.sweep.candidates import read_candidates
from loratory.sweep.study_file import read_study_file

MakeStudy = Callable[..., Path]


def test_defaults_and_shorthands(make_study: MakeStudy) -> None:
    file = read_study_file(make_study(control=True, concurrent=True))
    assert file.name == "study"
    assert (file.section.num_controls, file.section.runs_at_once) == (3, 8)
    assert not file.section.maximizes
    assert read_study_file(make_study(metric="exact_match")).section.maximizes
    assert read_study_file(make_study(metric="exact_match", direction="minimize")).section.maximizes is False
    plain = read_study_file(make_study()).section
    assert (plain.num_controls, plain.runs_at_once) == (0, 1)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"num_trails": 4}, "sweep.num_trails: unknown key. Did you mean 'num_trials'"),
        ({"halving": {"min_step": 4}}, "sweep.halving.min_step: unknown key"),
        ({"method": "bayes"}, "sweep.method"),
        ({"num_trials": 4}, "a grid tries all of its points"),
        ({"method": "random"}, "method random needs it"),
        ({"method": "tpe", "num_trials": 4, "halving": {"min_steps": 2}}, "needs all candidates at the start"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"concurrent": 0}, "expected true or a number of 1 or more"),
        ({"parallel": "two"}, "sweep.parallel"),
        ({"space": {"adapter.rnk": [2]}}, "adapter.rank"),
        ({"space": {"adapter.rank": {"low": 2, "high": 4}}}, "a grid needs a list of values"),
    ],
)
def test_a_wrong_key_or_value_is_named(make_study: MakeStudy, section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        read_study_file(make_study(**section))


def test_what_is_no_study_file_is_told_so(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study()
    with pytest.raises(ConfigError, match="no study file; expected one section 'sweep'"):
        read_study_file(tmp_path / "run.yaml")
    study.write_text(study.read_text() + "\ntrain:\n  max_steps: 3\n")
    with pytest.raises(ConfigError, match=r"train: unknown section of a study file; settings of the runs belong into"):
        read_study_file(study)


def test_assignments_go_to_the_study_or_to_its_base(make_study: MakeStudy) -> None:
    study = make_study(method="random", num_trials=9)
    given = ["sweep.num_trials=4", "sweep.halving.min_steps=2", "train.max_steps=20", "run.output_dir=elsewhere"]
    file = read_study_file(study, given)
    assert file.section.num_trials == 4
    assert file.section.halving is not None
    assert file.section.halving.min_steps == 2
    found = read_candidates(file)
    (config,) = found.configs(0, found.listed[0])
    assert (config.train.max_steps, str(found.folder)) == (20, "elsewhere/study")
    assert config.run.output_dir == "elsewhere/study"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("sweep.num_trails=4", "sweep.num_trails: unknown key"),
        ("sweep.num_trials", "expected sweep.key=value"),
        ("adapter.rank=4", "the study tries values of this key"),
        ("run.name=x", "give sweep.name"),
        ("train.max_step=4", "train.max_steps"),
    ],
)
def test_a_wrong_assignment_is_named(make_study: MakeStudy, override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        read_candidates(read_study_file(make_study(), [override]))
