"""Runs to verdicts: pairing, seeds, refusals."""

import json
import shutil
from pathlib import Path

import pytest

from forged_runs import forge_run, with_faults, write_answers
from loratory.compare import compare_runs, write_comparison
from loratory.compare.test_set import FILE_NAME, write_test_set
from loratory.data.records import Origin, Record, Turn
from loratory.errors import ConfigError, DataError, IntegrityError, RunError

LABELS = [f"code_{i % 7}|{i % 3}" for i in range(150)]
METRICS = ("exact_match", "item_f1")


def make(folder: Path, name: str, wrong: range | list[int], **options: object) -> Path:
    return forge_run(folder / name, with_faults(LABELS, wrong), LABELS, **options)  # type: ignore[arg-type]


def test_a_clear_winner_and_an_open_case(tmp_path: Path) -> None:
    paths = [
        make(tmp_path, "a", range(60), rank=4),
        make(tmp_path, "b", range(20), rank=8),
        make(tmp_path, "c", [*range(2, 20), *range(100, 106)], rank=16),
    ]
    found = compare_runs(paths, metrics=METRICS)
    exact = found.metric("exact_match")
    assert [score.value for score in exact.scores] == pytest.approx([60.0, 86.6666667, 84.0])
    pair = exact.pairs[0]
    assert (pair.first, pair.second, pair.wins, pair.losses, pair.test) == ("a", "b", 40, 0, "mcnemar")
    assert pair.p == pytest.approx(2 / 2**40)
    assert pair.p_holm == pytest.approx(3 * pair.p)
    assert pair.is_separable
    assert pair.low < pair.difference < pair.high
    open_case = exact.pairs[2]
    assert (open_case.wins, open_case.losses) == (2, 6)
    assert not open_case.is_separable
    assert open_case.rows_needed is not None
    assert open_case.rows_needed > 150
    assert found.verdict[0].startswith("b better than a by 26.7 ± ")
    assert found.verdict[2].startswith("c and b not separable with n = 150 (difference -2.7 points of exact_match")
    assert "rows would be needed" in found.verdict[2]
    assert {each.key: each.values for each in found.differences} == {"adapter.rank": ("4", "8", "16")}
    assert [each.cost.trainable for each in found.settings] == [4000.0, 8000.0, 16000.0]
    assert found.metric("item_f1").pairs[0].test == "mcnemar"  # here an answer is right or shares nothing
    assert found.best.name == "b"
    assert any("one seed for each setting" in note for note in found.notes)


def test_runs_that_differ_in_the_seed_only_are_replicates(tmp_path: Path) -> None:
    paths = [
        make(tmp_path, "small-seed1", range(30), rank=4, seed=1),
        make(tmp_path, "large-seed1", range(32), rank=8, seed=1),
        make(tmp_path, "small-seed2", range(60), rank=4, seed=2),
        make(tmp_path, "large-seed2", range(56), rank=8, seed=2),
    ]
    found = compare_runs(paths, metrics=METRICS)
    assert [(each.name, each.seeds) for each in found.settings] == [("small", (1, 2)), ("large", (1, 2))]
    score = found.metric("exact_match").score("small")
    assert score.runs == pytest.approx((80.0, 60.0))
    assert score.value == pytest.approx(70.0)
    assert score.seed_sd == pytest.approx(200**0.5)
    pair = found.metric("exact_match").pairs[0]
    assert pair.test == "bootstrap"
    assert pair.needs_seeds
    assert pair.rows_needed is None
    assert "more seeds are needed, not more rows" in found.verdict[0]
    assert any(note.startswith("seeds matter here") for note in found.notes)
    # The seeds' noise widens the interval beyond that of the rows alone.
    alone = compare_runs(paths[:2], metrics=METRICS).metric("exact_match").pairs[0]
    assert pair.margin > 3 * alone.margin


def test_the_same_run_twice_is_no_replicate(tmp_path: Path) -> None:
    paths = [make(tmp_path, "a", range(9)), make(tmp_path, "copy", range(9))]
    found = compare_runs(paths, metrics=METRICS)
    assert [each.name for each in found.settings] == ["a", "copy"]
    assert found.differences == ()
    assert "they are equal on every row" in found.verdict[0]


def test_baseline_best_and_the_untrained_base(tmp_path: Path) -> None:
    paths = [make(tmp_path, name, range(n), rank=n) for name, n in (("a", 30), ("b", 10), ("c", 20))]
    found = compare_runs(paths, metrics=METRICS, baseline="best")
    assert [(pair.first, pair.second) for pair in found.metric("exact_match").pairs] == [("b", "a"), ("b", "c")]
    assert any("chosen on these very rows" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"baseline: 'x' is none of the settings: a, b, c"):
        compare_runs(paths, metrics=METRICS, baseline="x")
    with pytest.raises(DataError, match=r"'test-base'.*loratory predict .* --base"):
        compare_runs(paths, metrics=METRICS, with_base=True)
    write_answers(paths[0] / "predictions" / "test-base", ["?"] * 150, LABELS, [f"Question {i} of {label}?" for i, label in enumerate(LABELS)])  # fmt: skip  # noqa: E501
    found = compare_runs(paths, metrics=METRICS, with_base=True)
    assert [each.name for each in found.settings] == ["base", "a", "b", "c"]
    assert found.metric("exact_match").score("base").value == 0
    assert len(found.differences[0].values) == 3


def test_older_runs_lack_keys_without_differing(tmp_path: Path) -> None:
    first = make(tmp_path, "a", range(3))
    second = make(tmp_path, "b", range(4), config={"adapter": {"dropout": 0.0, "use_dora": False}})
    assert compare_runs([first, second], metrics=METRICS).differences == ()


def test_different_rows_are_refused_with_what_differs(tmp_path: Path) -> None:
    first = make(tmp_path, "a", range(3))
    other = [*LABELS[:4], "else", *LABELS[5:]]
    cases = {
        "100 rows": (forge_run(tmp_path / "short", LABELS[:100], LABELS[:100]), "150 rows against 100"),
        "label": (
            forge_run(tmp_path / "label", LABELS, other),
            "1 rows have other labels, first row 5: 'code_4|1' against 'else'",
        ),
        "order": (forge_run(tmp_path / "order", LABELS[::-1], LABELS[::-1]), "the same labels in another order"),
        "prompt": (
            forge_run(tmp_path / "prompt", LABELS, LABELS, questions=[f"Other {i}?" for i in range(150)]),
            "the labels are equal, the prompts are not",
        ),
    }
    for second, words in cases.values():
        with pytest.raises(DataError) as caught:
            compare_runs([first, second], metrics=METRICS)
        assert words in str(caught.value)
        assert "loratory predict RUN --data FILE" in str(caught.value)


def records(questions: list[str], system: str) -> list[Record]:
    return [
        Record((Turn("system", system), Turn("user", q), Turn("assistant", label)), Origin("f", 1))
        for q, label in zip(questions, LABELS, strict=True)
    ]


def test_the_recorded_fingerprint_decides_where_templates_differ(tmp_path: Path) -> None:
    """Two templates lay the same questions out so differently that prompts cannot tell; the fingerprint can."""
    asked = [f"Question {i}?" for i in range(150)]
    first = forge_run(tmp_path / "a", LABELS, LABELS, questions=asked)
    second = forge_run(tmp_path / "b", LABELS, LABELS, questions=[f"[{q}] {i % 2}" for i, q in enumerate(asked)])
    with pytest.raises(DataError, match="predict again to have it"):
        compare_runs([first, second], metrics=METRICS)
    write_test_set(first / "predictions" / "test", "test.json", records(asked, "Be brief."))
    write_test_set(second / "predictions" / "test", "test.json", records(asked, "Another system prompt."))
    found = compare_runs([first, second], metrics=METRICS)
    assert (found.test_set.source, found.test_set.is_recorded) == ("test.json", True)
    write_test_set(second / "predictions" / "test", "test.json", records(asked[::-1], "Be brief."))
    with pytest.raises(DataError, match="the labels are equal, the questions are not"):
        compare_runs([first, second], metrics=METRICS)
    file = second / "predictions" / "test" / FILE_NAME
    file.write_text(file.read_text()[:20])
    with pytest.raises(IntegrityError, match=r"test_set\.json: cannot be read"):
        compare_runs([first, second], metrics=METRICS)


def test_missing_predictions_name_the_command(tmp_path: Path) -> None:
    first = make(tmp_path, "a", range(3))
    second = forge_run(tmp_path / "b", None, LABELS)
    with pytest.raises(DataError, match=r"b has none; make them with: loratory predict \S+/b --data data/test\.json"):
        compare_runs([first, second])
    third = forge_run(tmp_path / "c", None, LABELS, is_finished=False)
    with pytest.raises(DataError, match=r"c has none; its training is not finished: loratory train .* --resume"):
        compare_runs([first, third])
    with pytest.raises(DataError, match=r"predictions 'valid'"):
        compare_runs([first], predictions="valid")


def test_several_predictions_need_a_choice(tmp_path: Path) -> None:
    path = make(tmp_path, "a", range(3))
    shutil.copytree(path / "predictions" / "test", path / "predictions" / "extra")
    assert compare_runs([path], metrics=METRICS).predictions == "test"  # the run's own test rows
    config = json.loads((path / "config.yaml").read_text())
    del config["data"]["test"]
    (path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"several sets of predictions \(extra, test\); choose one with --predictions"):
        compare_runs([path], metrics=METRICS)


def test_no_run_the_same_run_twice_and_rows_without_labels(tmp_path: Path) -> None:
    path = make(tmp_path, "a", range(3))
    with pytest.raises(ConfigError, match="given twice"):
        compare_runs([path, path])
    with pytest.raises(ConfigError, match="none given"):
        compare_runs([])
    with pytest.raises(RunError, match="not a run directory"):
        compare_runs([path, tmp_path])
    bare = forge_run(tmp_path / "bare", ["x"], [" "])
    with pytest.raises(DataError, match="1 of 1 rows have no label"):
        compare_runs([bare], metrics=METRICS)


def test_the_json_holds_it_all(tmp_path: Path) -> None:
    paths = [make(tmp_path, "a", range(9), rank=4), make(tmp_path, "b", range(3))]
    found = compare_runs(paths, metrics=METRICS)
    write_comparison(tmp_path / "deep" / "c.json", found)
    content = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert content["schema"] == 1
    assert content["verdict"] == list(found.verdict)
    assert content["metrics"][0]["pairs"][0]["wins"] == 6
    assert content["test_set"]["num_rows"] == 150


def test_many_pairs_are_told_by_the_closest_ones(tmp_path: Path) -> None:
    """Seven settings, each with 20 faults more than the one before: 21 pairs."""
    paths = [make(tmp_path, f"r{rank}", range(20 * rank), rank=rank) for rank in range(7)]
    verdict = compare_runs(paths, metrics=("exact_match",), num_resamples=200).verdict
    assert len(verdict) == 6
    assert verdict[-1] == "the other 16 pairs lie 13.3 to 80.0 points apart; all of them are separable"
    assert all("13.3 ±" in sentence for sentence in verdict[:5])
