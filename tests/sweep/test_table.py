"""The table and what it says, from results written by hand."""

import json
from collections.abc import Callable
from pathlib import Path

from loratory.sweep.candidates import Candidates
from loratory.sweep.child import RunResult, write_result
from loratory.sweep.storage import StoredTrial
from loratory.sweep.table import study_table, write_table

MakeFound = Callable[..., Candidates]


def note(found: Candidates, name: str, value: float | None, *, step: int = 4, state: str = "complete") -> None:
    results = found.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    write_result(results, name, RunResult(state, value, step, "", 2.0))


def stored(found: Candidates, number: int, value: float | None, state: str = "complete") -> StoredTrial:
    return StoredTrial(number, found.listed[number], state, value, "" if value is not None else "why not")


def test_the_best_first_by_the_metrics_own_direction_the_unfinished_last(make_found: MakeFound) -> None:
    found = make_found(metric="exact_match", score_data="rows.json", space={"adapter.rank": [2, 4, 8, 16]})
    trials = [
        stored(found, 0, 10.0), stored(found, 1, None, "failed"), stored(found, 2, 30.0), stored(found, 3, 20.0),
        StoredTrial(4, {}, "failed", None, "a spare"),
    ]  # fmt: skip
    for number, value in ((0, 10.0), (2, 30.0), (3, 20.0)):
        note(found, f"trial-{number:03}", value)
    table = study_table(found, trials)
    assert [row.name for row in table.rows] == ["trial-002", "trial-003", "trial-000", "trial-001"]
    assert table.best is not None
    assert table.best.setting == "rank=8"
    assert table.rows[-1].reason == "why not"


def test_means_and_spreads_over_seeds(make_found: MakeFound) -> None:
    found = make_found(seeds=[1, 2])
    note(found, "trial-000-seed-1", 1.0)
    note(found, "trial-000-seed-2", 3.0)
    (row,) = study_table(found, [stored(found, 0, 2.0)]).rows
    assert row.spread == 2.0**0.5
    assert (row.steps, row.seconds, row.runs) == (4, 4.0, ("trial-000-seed-1", "trial-000-seed-2"))


def test_what_mattered_is_the_variance_between_the_trials(make_found: MakeFound) -> None:
    """Losses 1, 1, 2, 2 for ranks 2, 2, 4, 4: rank explains all of it, dropout nothing."""
    found = make_found(space={"adapter.rank": [2, 4], "adapter.dropout": [0.0, 0.1]})
    trials = [stored(found, number, 1.0 if number < 2 else 2.0) for number in range(4)]
    table = study_table(found, trials)
    assert [(each.key, each.share) for each in table.importance] == [("adapter.rank", 1.0), ("adapter.dropout", 0.0)]
    assert any("eval_loss between 4 trials that goes with adapter.rank 100 %" in line for line in table.words)


def test_under_halving_all_trials_are_compared_at_the_first_selection(make_found: MakeFound) -> None:
    found = make_found({"train.max_steps": 18}, halving={"min_steps": 2}, space={"adapter.rank": [2, 4, 8]})
    for number in range(3):
        folder = found.folder / f"trial-{number:03}"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "eval_loss": 3.0 - number}) + "\n")
    table = study_table(
        found, [stored(found, 0, None, "pruned"), stored(found, 1, None, "pruned"), stored(found, 2, 0.5)]
    )
    assert table.measured_by == "eval_loss at step 2 between 3 trials"
    assert table.importance[0].num_runs == 3


def test_the_control_says_whether_the_best_is_beyond_the_noise(make_found: MakeFound) -> None:
    found = make_found(control=3)
    for seed, value in zip(found.control_names(), (1.0, 1.01, 0.99), strict=True):
        note(found, seed, value)
    words = study_table(found, [stored(found, 0, 0.5), stored(found, 1, 0.6)]).words
    assert words[0] == "best: trial-000 (rank=2), eval_loss 0.5000"
    assert "0.5000 better than the base's mean, beyond the noise" in words[1]
    assert "best of 2" in words[2]
    assert words[3].startswith("noise: the base itself gives eval_loss 1.0000 ± 0.0100 over 3 seeds")


def test_the_table_is_left_beside_the_runs(make_found: MakeFound) -> None:
    found = make_found()
    found.folder.mkdir(parents=True)
    write_table(study_table(found, [stored(found, 0, 0.5)]))
    content = json.loads((found.folder / "study.json").read_text())
    assert content["trials"][0]["params"] == {"adapter.rank": 2}
    assert Path(content["trials"][0]["runs"][0]).name == "trial-000"
    assert content["words"][0].startswith("best: trial-000")
