"""`compare_runs`: from run directories to differences, tests and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from loratory.compare.measuring import measure_answers
from loratory.compare.pairing import compare_metric
from loratory.compare.resampling import Resampled, resample
from loratory.compare.result import Comparison, Setting
from loratory.compare.run_facts import (
    BASE_SUFFIX,
    PREDICTIONS_FILE,
    Answers,
    Cost,
    RunFacts,
    choose_predictions,
    read_answers,
    read_run,
)
from loratory.compare.settings import differences, environment_differences, group_runs, setting_names
from loratory.compare.test_set import refuse_different
from loratory.compare.verdict import seed_notes, verdict
from loratory.errors import ConfigError, DataError
from loratory.evaluation.answer_metrics.family import Definition

DEFAULT_METRIC = "exact_match"
BEST = "best"
BEST_NOTE = "the best setting was chosen on these very rows, which flatters it; confirm it on rows that chose nothing"


def compare_runs(
    runs: Sequence[Path | RunFacts],
    *,
    predictions: str | None = None,
    metrics: Sequence[str] | None = None,
    primary: str | None = None,
    baseline: str | None = None,
    with_base: bool = False,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Comparison:
    """Compare runs on the test rows that all of them answered.

    Args:
        runs: One or more, by their directories or as they were read already. Runs that differ in train.seed only are
            replicates of one setting.
        predictions: Name of the predictions below each run; None takes those that all runs have.
        metrics: Names or ids; None takes those that fit the labels and whose libraries are installed.
        primary: The metric of the verdict; None takes exact_match, or the first of `metrics`.
        baseline: Name of a setting that all others are compared with, or `best`; None compares every pair.
        with_base: Take the untrained base's predictions along, where they are.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.

    Raises:
        RunError: A path is no run.
        DataError: Predictions are missing, without labels, or of different rows; the message says which and what to do.
        ConfigError: A metric or the baseline is unknown, or a run is given twice.
        MissingExtraError: A metric that was asked for needs a library.
    """
    facts = read_runs(runs)
    name = choose_predictions(facts, predictions)
    compared = _compared_answers(facts, name, with_base=with_base)
    settings, answers = [each.setting for each in compared], [each.answers for each in compared]
    _check_rows(settings, answers)
    long_answer_chars = facts[0].config.get("evaluation.long_answer_chars", 10)
    measured, notes = measure_answers(
        answers, metrics, long_answer_chars=long_answer_chars if isinstance(long_answer_chars, int) else 10
    )
    drawn = [
        (definition, resampled)
        for definition, statistics in measured
        if (resampled := resample(statistics, seed=seed, num_resamples=num_resamples)) is not None
    ]
    chosen = _primary([definition for definition, _ in drawn], primary)
    names = tuple(setting.name for setting in settings)
    pairs = _pairs(names, baseline, drawn[chosen][1])
    if baseline == BEST and len(names) > 2:
        notes = (*notes, BEST_NOTE)
    results = tuple(compare_metric(definition, each, names, pairs) for definition, each in drawn)
    return Comparison(
        predictions=name,
        test_set=answers[0][0].test_set,
        settings=tuple(settings),
        differences=differences([each.runs for each in compared if not each.setting.is_base]),
        environment=environment_differences(facts),
        primary=results[chosen].name,
        metrics=results,
        verdict=verdict(results[chosen]),
        notes=(*notes, *seed_notes(results[chosen], settings)),
    )


def mean_cost(runs: Sequence[RunFacts]) -> Cost:
    """Mean cost over runs, of those that recorded it."""
    found: dict[str, float | None] = {}
    for each in fields(Cost):
        known = [value for run in runs if (value := getattr(run.cost, each.name)) is not None]
        found[each.name] = sum(known) / len(known) if known else None
    return Cost(**found)


def read_runs(runs: Sequence[Path | RunFacts]) -> tuple[RunFacts, ...]:
    """Read several runs; one that was read already is taken as it is.

    Raises:
        ConfigError: None is given, or one is given twice.
        RunError: A path is no run.
    """
    if not runs:
        raise ConfigError("runs: none given; give at least one run directory")
    places = [(run if isinstance(run, Path) else run.path).resolve() for run in runs]
    twice = sorted({str(path) for path in places if places.count(path) > 1})
    if twice:
        raise ConfigError(f"runs: given twice: {', '.join(twice)}")
    return tuple(read_run(run) if isinstance(run, Path) else run for run in runs)


@dataclass(frozen=True, slots=True)
class _Compared:
    setting: Setting
    runs: tuple[RunFacts, ...]
    answers: tuple[Answers, ...]


def _compared_answers(runs: Sequence[RunFacts], name: str, *, with_base: bool) -> list[_Compared]:
    """Settings with their runs' predictions; the untrained bases first."""
    groups = group_runs(runs)
    found = [
        _Compared(
            Setting(title, tuple(str(run.path) for run in group), tuple(run.seed for run in group), mean_cost(group)),
            tuple(group),
            tuple(read_answers(run, name) for run in group),
        )
        for title, group in zip(setting_names(groups), groups, strict=True)
    ]
    if not with_base:
        return found
    bases = base_answers(runs, name)
    if not bases:
        command = f"loratory predict {runs[0].path} --base --data FILE"
        raise DataError(f"no run has predictions '{name}{BASE_SUFFIX}' of its untrained base; make them: {command}")
    return [
        *(
            _Compared(Setting(title, (str(run.path),), (None,), Cost(), is_base=True), (run,), (answers,))
            for title, run, answers in bases
        ),
        *found,
    ]


def base_answers(runs: Sequence[RunFacts], name: str) -> tuple[tuple[str, RunFacts, Answers], ...]:
    """Predictions of each untrained base, from the first run that has them: title, run, predictions."""
    found: dict[str, RunFacts] = {}
    for run in runs:
        if (run.path / "predictions" / f"{name}{BASE_SUFFIX}" / PREDICTIONS_FILE).exists():
            found.setdefault(run.base_identity, run)
    models = [Path(str(run.config.get("model.model_name_or_path"))).name for run in found.values()]
    titles = ["base"] if len(models) == 1 else [f"base {model}" for model in models]
    if len(set(titles)) < len(titles):
        titles = [f"base of {run.name}" for run in found.values()]
    return tuple(
        (title, run, read_answers(run, f"{name}{BASE_SUFFIX}"))
        for title, run in zip(titles, found.values(), strict=True)
    )


def _check_rows(settings: Sequence[Setting], answers: Sequence[Sequence[Answers]]) -> None:
    flat = [
        (run, each.test_set, each.rows)
        for setting, group in zip(settings, answers, strict=True)
        for run, each in zip(setting.runs, group, strict=True)
    ]
    refuse_different(flat)
    without = [number for number, row in enumerate(flat[0][2], start=1) if not row.label.strip()]
    if without:
        raise DataError(
            f"{answers[0][0].folder}: {len(without)} of {len(flat[0][2])} rows have no label to compare with, first "
            f"row {without[0]}; predict rows that have answers"
        )


def _pairs(names: Sequence[str], baseline: str | None, primary: Resampled) -> tuple[tuple[int, int], ...]:
    """Places of first and second of each pair."""
    if baseline is None:
        return tuple((i, j) for i in range(len(names)) for j in range(i + 1, len(names)))
    if baseline in names:
        at = names.index(baseline)
    elif baseline == BEST:
        at = int(primary.values_S.argmax())
    else:
        raise ConfigError(f"baseline: '{baseline}' is none of the settings: {', '.join(names)}; or take '{BEST}'")
    return tuple((at, j) for j in range(len(names)) if j != at)


def _primary(compared: Sequence[Definition], wanted: str | None) -> int:
    """Place of the primary metric."""
    names = [each.name for each in compared]
    if not names:
        raise DataError("no row takes part in any of the metrics asked for")
    name = wanted or (DEFAULT_METRIC if DEFAULT_METRIC in names else names[0])
    for place, each in enumerate(compared):
        if name in (each.name, each.id):
            return place
    raise ConfigError(f"primary: '{name}' is none of the metrics compared: {', '.join(names)}")
