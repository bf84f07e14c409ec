"""From a study to configurations: what is set where, and what is refused before anything trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import ConfigError, DataError
from loratory.sweep.candidates import Candidates, describe, refuse_invalid

MakeFound = Callable[..., Candidates]


def test_a_trial_is_the_base_with_its_values_and_one_run_for_each_seed(make_found: MakeFound, tmp_path: Path) -> None:
    found = make_found(
        seeds=[5, 6], space={"adapter.targets": [["q_proj"], "all"], "train.optimizer": ["adamw"]}, parallel=2,
        memory_gib=3.0, control=2,
    )  # fmt: skip
    assert [params["adapter.targets"] for params in found.listed] == [["q_proj"], "all"]
    first, second = found.configs(1, found.listed[1])
    assert (first.run.name, second.run.name) == found.run_names(1) == ("trial-001-seed-5", "trial-001-seed-6")
    assert (first.train.seed, second.train.seed) == (5, 6)
    assert first.adapter.targets == "all"
    assert first.adapter.rank == 4
    assert first.train.memory_budget_gib == 1.5
    assert Path(first.run.output_dir) == tmp_path / "out" / "study"
    assert [config.train.seed for config in found.control_configs()] == [5, 6]
    assert [config.run.name for config in found.control_configs()] == list(found.control_names())
    assert found.control_configs()[0].adapter.targets == found.base_config().adapter.targets


def test_halving_evaluates_where_it_selects(make_found: MakeFound) -> None:
    found = make_found({"train.max_steps": 18}, halving={"min_steps": 2, "factor": 3})
    assert found.rungs == (2, 6, 18)
    assert found.base_config().train.eval_steps == 2


def test_every_fault_of_every_trial_is_found_before_training(make_found: MakeFound) -> None:
    found = make_found(space={"adapter.rank": [4, 0], "train.learning_rate": [0.1, -1.0]})
    with pytest.raises(ConfigError) as caught:
        refuse_invalid(found)
    assert len(caught.value.faults) == 2
    assert any("adapter.rank" in fault and "rank=0" in fault for fault in caught.value.faults)
    assert any("train.learning_rate" in fault for fault in caught.value.faults)


def test_the_ends_of_an_axis_stand_for_what_a_sampler_will_propose(make_found: MakeFound) -> None:
    found = make_found(
        method="tpe", num_trials=2, space={"adapter.rank": {"low": 0, "high": 8}, "adapter.dropout": [0.0, 0.1]}
    )
    with pytest.raises(ConfigError, match=r"adapter\.rank"):
        refuse_invalid(found)


@pytest.mark.parametrize(
    ("base", "section", "complaint"),
    [
        ({"data.val_size": 0}, {}, "eval_loss needs validation rows"),
        ({"data.val_size": 0}, {"metric": "exact_match"}, "set sweep.score_data"),
        ({"train.max_steps": None}, {"halving": {"min_steps": 2}}, "halving needs train.max_steps"),
        ({}, {"halving": {"min_steps": 4}}, "must be below train.max_steps"),
        ({"train.eval_steps": 3}, {"halving": {"min_steps": 2}}, "must be a multiple of train.eval_steps"),
        ({}, {"halving": {"min_steps": 2}, "space": {"train.max_steps": [4, 8]}}, "halving compares runs at equal"),
    ],
)
def test_a_base_that_does_not_fit_the_study_is_refused(
    make_found: MakeFound, base: dict[str, Any], section: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_found(base, **section)


def test_runs_that_cannot_share_a_base_and_missing_rows_are_refused(make_found: MakeFound, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.init: pissa changes the base"):
        refuse_invalid(make_found(concurrent=2, space={"adapter.init": ["default", "pissa"]}))
    found = make_found()
    (tmp_path / "rows.json").unlink()
    with pytest.raises(DataError, match=r"rows\.json"):
        refuse_invalid(found)


def test_settings_in_words() -> None:
    assert describe({"adapter.targets": ["q", "v"], "train.learning_rate": 0.00012345}) == (
        "targets=q+v, learning_rate=0.000123"
    )
