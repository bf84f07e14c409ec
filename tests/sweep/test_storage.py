"""Studies in Optuna's storage: resume, several workers, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from loratory.errors import ConfigError, IntegrityError, RunError
from loratory.sweep.candidates import Candidates
from loratory.sweep.storage import StudyStore, read_trials, storage_url

MakeFound = Callable[..., Candidates]
TPE = {
    "method": "tpe",
    "num_trials": 8,
    "space": {"adapter.rank": [2, 4, 8], "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
}


def states(store: StudyStore) -> list[str]:
    return [trial.state for trial in store.trials()]


def test_a_grid_is_listed_taken_in_order_and_ended(make_found: MakeFound) -> None:
    found = make_found(space={"adapter.targets": [["q_proj"], "all"], "adapter.rank": [2, 4]})
    store = StudyStore(found, resume=False)
    assert states(store) == ["waiting"] * 4
    taken = store.take(3)
    assert [trial.params for trial in taken] == list(found.listed[:3])
    store.complete(0, 0.5)
    store.prune(1, "place 9 of 9")
    store.fail(2, "out of memory")
    again = StudyStore(found, resume=True)
    assert states(again) == ["complete", "pruned", "failed", "waiting"]
    assert [trial.reason for trial in again.trials()] == ["", "place 9 of 9", "out of memory", ""]
    assert again.trials()[0].value == 0.5
    assert [trial.params for trial in again.trials()] == list(found.listed)


def test_proposals_after_a_stop_are_those_of_an_unbroken_study(make_found: MakeFound, tmp_path: Path) -> None:
    def work(store: StudyStore, count: int) -> None:
        for _ in range(count):
            (trial,) = store.take(1)
            store.complete(trial.number, float(trial.params["train.learning_rate"]) + trial.params["adapter.rank"])

    whole, broken = make_found(**TPE), make_found(name="broken", **TPE)
    work(StudyStore(whole, resume=False), 8)
    work(StudyStore(broken, resume=False), 3)
    store = StudyStore(broken, resume=True)
    work(store, 5)
    assert store.take(1) == []
    params = [trial.params for trial in store.trials()]
    assert params == [trial.params for trial in read_trials(whole)[0]]
    assert len({tuple(each.values()) for each in params}) == 8


def test_workers_share_trials_and_adopt_those_of_the_gone_only(make_found: MakeFound) -> None:
    found = make_found(space={"adapter.rank": [2, 4, 8]})
    first, second = StudyStore(found, resume=False), StudyStore(found, resume=True)
    assert [trial.number for trial in first.take(1)] == [0]
    assert [trial.number for trial in second.take(1)] == [1]
    assert [trial.number for trial in second.take(1)] == [2]
    assert first.take(1) == []
    second.claims.release(1)  # as when its process has died
    assert [(trial.number, trial.params) for trial in first.take(5)] == [(1, {"adapter.rank": 4})]


def test_workers_without_a_common_folder_do_not_adopt_each_others_trials(make_found: MakeFound, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    here = make_found(storage=url)
    there = make_found({"run.output_dir": str(tmp_path / "elsewhere")}, storage=url)
    first, second = StudyStore(here, resume=False), StudyStore(there, resume=True)
    assert [trial.number for trial in first.take(1)] == [0]
    first.claims.release(0)
    assert [trial.number for trial in second.take(5)] == [1]
    assert [trial.number for trial in first.take(5)] == [0]


def test_a_spare_trial_is_told_from_the_listed_ones(make_found: MakeFound) -> None:
    """Two workers that take the last candidate at the same time: Optuna makes up a trial for the slower one."""
    found = make_found()
    store = StudyStore(found, resume=False)
    study = optuna.load_study(study_name="study", storage=storage_url(found))
    study.enqueue_trial({"adapter.rank": 2}, user_attrs={"loratory candidate": 0})
    assert [trial.number for trial in store.take(5)] == [0, 1]
    spare = store.trials()[2]
    assert (spare.params, spare.state, spare.reason) == ({}, "failed", "listed twice; it is trial 0")


def test_more_trials_may_be_asked_for_and_continue_the_same_list(make_found: MakeFound) -> None:
    space = {"train.learning_rate": {"low": 1e-3, "high": 1e-1}}
    few = make_found(method="random", num_trials=2, space=space)
    StudyStore(few, resume=False)
    many = make_found(method="random", num_trials=4, space=space)
    store = StudyStore(many, resume=True)
    assert [trial.params for trial in store.take(9)] == list(many.listed)
    assert many.listed[:2] == few.listed


def test_begin_and_resume_are_told_apart(make_found: MakeFound) -> None:
    found = make_found()
    with pytest.raises(RunError, match="begin it without --resume"):
        StudyStore(found, resume=True)
    StudyStore(found, resume=False)
    with pytest.raises(RunError, match="with --resume; or rename"):
        StudyStore(found, resume=False)


def test_another_study_under_the_same_name_is_refused_with_what_differs(make_found: MakeFound, tmp_path: Path) -> None:
    StudyStore(make_found(), resume=False)
    with pytest.raises(IntegrityError) as caught:
        StudyStore(make_found({"train.learning_rate": 0.5}, space={"adapter.rank": [2, 8]}), resume=True)
    assert "base train.learning_rate: 0.01 then, 0.5 now" in str(caught.value)
    assert "space.adapter.rank: [2, 4] then, [2, 8] now" in str(caught.value)
    found = make_found(parallel=2, control=2)  # how it is worked on may change
    StudyStore(found, resume=True)
    (tmp_path / "rows.json").write_text('[{"instruction": "other", "output": "x"}]')
    with pytest.raises(IntegrityError, match="data train"):
        StudyStore(found, resume=True)


def test_a_study_of_another_version_or_of_other_code_is_refused(
    make_found: MakeFound, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_found()
    StudyStore(found, resume=False)
    monkeypatch.setattr("loratory.sweep.identity.__version__", "9.9.9")
    with pytest.raises(IntegrityError, match=r"loratory version: .* then, 9\.9\.9 now"):
        StudyStore(found, resume=True)
    foreign = make_found(name="foreign")
    foreign.folder.mkdir(parents=True)
    study = optuna.create_study(study_name="foreign", storage=storage_url(foreign))
    study.add_trial(
        optuna.trial.create_trial(
            params={"depth": 3}, distributions={"depth": optuna.distributions.IntDistribution(1, 5)}, value=0.1
        )
    )
    with pytest.raises(
        IntegrityError, match=r"made by other code.*parameters: depth; those of the study file: adapter"
    ):
        StudyStore(foreign, resume=True)


def test_reading_writes_nothing_and_says_what_has_changed(make_found: MakeFound, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no study 'study' there"):
        read_trials(make_found())
    assert not (tmp_path / "out").exists()
    StudyStore(make_found(), resume=False)
    trials, changes = read_trials(make_found({"train.learning_rate": 0.5}))
    assert [trial.state for trial in trials] == ["waiting", "waiting"]
    assert changes == ["base train.learning_rate: 0.01 then, 0.5 now"]


def test_a_storage_that_cannot_be_opened_is_said_in_words(make_found: MakeFound, tmp_path: Path) -> None:
    for url in ("nonsense", f"sqlite:///{tmp_path / 'no folder' / 'study.db'}"):
        with pytest.raises(ConfigError, match=r"sweep\.storage: cannot be opened"):
            StudyStore(make_found(storage=url), resume=False)
