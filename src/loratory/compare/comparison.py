"""`compare_runs`: from run directories to differences, tests and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from loratory.compare.power import SIGNIFICANCE, detectable_difference, rows_needed
from loratory.compare.resampling import Resampled, bootstrap_p, interval, resample
from loratory.compare.result import Comparison, MetricComparison, Pair, Setting, SettingScore
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
from loratory.compare.sign_test import holm, sign_test
from loratory.compare.test_set import refuse_different
from loratory.compare.verdict import seed_notes, verdict
from loratory.errors import ConfigError, DataError, MissingExtraError
from loratory.evaluation.answer_metrics.family import Definition, Statistics
from loratory.evaluation.answer_metrics.registry import families, fitting_metrics, resolve_metrics

DEFAULT_METRIC = "exact_match"


def compare_runs(
    paths: Sequence[Path],
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
        paths: Run directories, one or more. Runs that differ in train.seed only are replicates of one setting.
        predictions: Name of the predictions below each run; None takes those that all runs have.
        metrics: Names or ids; None takes those that fit the labels and whose libraries are installed.
        primary: The metric of the verdict; None takes exact_match, or the first of `metrics`.
        baseline: Name of a setting that all others are compared with; None compares every pair.
        with_base: Take the untrained base's predictions along, where they are.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.

    Raises:
        RunError: A path is no run.
        DataError: Predictions are missing, without labels, or of different rows; the message says which and what to do.
        ConfigError: A metric or the baseline is unknown, or a run is given twice.
        MissingExtraError: A metric that was asked for needs a library.
    """
    runs = _read_runs(paths)
    name = choose_predictions(runs, predictions)
    groups = list(group_runs(runs))
    settings = [
        Setting(each, tuple(str(run.path) for run in group), tuple(run.seed for run in group), mean_cost(group))
        for each, group in zip(setting_names(groups), groups, strict=True)
    ]
    answers = [[read_answers(run, name) for run in group] for group in groups]
    if with_base:
        found = _base_answers(groups, name)
        if not found:
            command = f"loratory predict {runs[0].path} --base --data FILE"
            raise DataError(f"no run has predictions '{name}{BASE_SUFFIX}' of its untrained base; make them: {command}")
        settings = [*(setting for setting, _ in found), *settings]
        answers = [*([each] for _, each in found), *answers]
        groups = [*((_run_of(runs, setting),) for setting, _ in found), *groups]
    _check_rows(settings, answers)
    long_answer_chars = runs[0].config.get("evaluation.long_answer_chars", 10)
    measured, notes = _measure(answers, metrics, long_answer_chars if isinstance(long_answer_chars, int) else 10)
    names = tuple(setting.name for setting in settings)
    pairs = _pairs(names, baseline)
    compared = []
    for definition, statistics in measured:
        drawn = resample(statistics, seed=seed, num_resamples=num_resamples)
        if drawn is not None:
            compared.append(_compare_metric(definition, drawn, names, pairs))
    chosen = _primary(compared, primary)
    tried = [(setting, group) for setting, group in zip(settings, groups, strict=True) if not setting.is_base]
    return Comparison(
        predictions=name,
        test_set=answers[0][0].test_set,
        settings=tuple(settings),
        differences=differences([group for _, group in tried]),
        environment=environment_differences(runs),
        primary=chosen.name,
        metrics=tuple(compared),
        verdict=verdict(chosen),
        notes=(*notes, *seed_notes(chosen, settings)),
    )


def mean_cost(runs: Sequence[RunFacts]) -> Cost:
    """Mean cost over runs, of those that recorded it."""
    found: dict[str, float | None] = {}
    for each in fields(Cost):
        known = [value for run in runs if (value := getattr(run.cost, each.name)) is not None]
        found[each.name] = sum(known) / len(known) if known else None
    return Cost(**found)


def _read_runs(paths: Sequence[Path]) -> tuple[RunFacts, ...]:
    if not paths:
        raise ConfigError("runs: none given; give at least one run directory")
    places = [path.resolve() for path in paths]
    twice = sorted({str(path) for path in places if places.count(path) > 1})
    if twice:
        raise ConfigError(f"runs: given twice: {', '.join(twice)}")
    return tuple(read_run(path) for path in paths)


def _run_of(runs: Sequence[RunFacts], setting: Setting) -> RunFacts:
    return next(run for run in runs if str(run.path) == setting.runs[0])


def _base_answers(groups: Sequence[Sequence[RunFacts]], name: str) -> list[tuple[Setting, Answers]]:
    """Predictions of each untrained base, from the first run that has them."""
    found: dict[str, tuple[RunFacts, Answers]] = {}
    for run in (run for group in groups for run in group):
        if (run.path / "predictions" / f"{name}{BASE_SUFFIX}" / PREDICTIONS_FILE).exists():
            found.setdefault(run.base_identity, (run, read_answers(run, f"{name}{BASE_SUFFIX}")))
    models = [Path(str(run.config.get("model.model_name_or_path"))).name for run, _ in found.values()]
    titles = ["base"] if len(models) == 1 else [f"base {model}" for model in models]
    if len(set(titles)) < len(titles):
        titles = [f"base of {run.name}" for run, _ in found.values()]
    return [
        (Setting(title, (str(run.path),), (None,), Cost(), is_base=True), answers)
        for title, (run, answers) in zip(titles, found.values(), strict=True)
    ]


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


def _measure(
    answers: Sequence[Sequence[Answers]], metrics: Sequence[str] | None, long_answer_chars: int
) -> tuple[list[tuple[Definition, list[list[Statistics]]]], tuple[str, ...]]:
    """Statistics of each metric for each run of each setting; notes on what was left out."""
    labels = [row.label for row in answers[0][0].rows]
    found = families(labels, long_answer_chars=long_answer_chars)
    wanted = fitting_metrics(found, labels) if metrics is None else resolve_metrics(metrics, found)
    measured: dict[str, tuple[Definition, list[list[Statistics]]]] = {}
    notes = []
    for family in found:
        definitions = {each.name: each for each in family.definitions if each.name in wanted}
        if not definitions:
            continue
        try:
            results: list[list[Mapping[str, Statistics]]] = [
                [family.measure([row.predict for row in each.rows], labels, tuple(definitions)) for each in group]
                for group in answers
            ]
        except MissingExtraError as error:
            if metrics is not None:
                raise
            notes.append(f"left out: {', '.join(definitions)}. {error}")
            continue
        for name, definition in definitions.items():
            measured[name] = (definition, [[run[name] for run in group] for group in results])
    return [measured[name] for name in wanted if name in measured], tuple(notes)


def _pairs(names: Sequence[str], baseline: str | None) -> tuple[tuple[int, int], ...]:
    """Places of first and second of each pair."""
    if baseline is None:
        return tuple((i, j) for i in range(len(names)) for j in range(i + 1, len(names)))
    if baseline not in names:
        raise ConfigError(f"baseline: '{baseline}' is none of the settings: {', '.join(names)}")
    at = names.index(baseline)
    return tuple((at, j) for j in range(len(names)) if j != at)


def _primary(compared: Sequence[MetricComparison], wanted: str | None) -> MetricComparison:
    names = [each.name for each in compared]
    if not names:
        raise DataError("no row takes part in any of the metrics asked for")
    name = wanted or (DEFAULT_METRIC if DEFAULT_METRIC in names else names[0])
    for each in compared:
        if name in (each.name, each.id):
            return each
    raise ConfigError(f"primary: '{name}' is none of the metrics compared: {', '.join(names)}")


def _compare_metric(
    definition: Definition, drawn: Resampled, names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> MetricComparison:
    scores = tuple(_score(drawn, place, name) for place, name in enumerate(names))
    raw = [_pair(drawn, names, first, second, num_pairs=len(pairs)) for first, second in pairs]
    adjusted = holm([pair.p for pair in raw])
    return MetricComparison(
        name=definition.name,
        id=definition.id,
        definition=definition.words,
        num_rows=drawn.num_rows,
        scores=scores,
        pairs=tuple(
            replace(pair, p_holm=p, is_separable=p <= SIGNIFICANCE and (pair.low > 0 or pair.high < 0))
            for pair, p in zip(raw, adjusted, strict=True)
        ),
    )


def _score(drawn: Resampled, place: int, name: str) -> SettingScore:
    runs = drawn.run_values[place]
    low, high = interval(drawn.draws_RS[:, place])
    sd = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
    return SettingScore(name, float(drawn.values_S[place]), low, high, runs, sd)


def _pair(drawn: Resampled, names: Sequence[str], first: int, second: int, *, num_pairs: int) -> Pair:
    difference = float(drawn.values_S[second] - drawn.values_S[first])
    draws_R = drawn.draws_RS[:, second] - drawn.draws_RS[:, first]
    low, high = interval(draws_R)
    has_seeds = max(len(drawn.run_values[first]), len(drawn.run_values[second])) > 1
    wins = losses = needed = detectable = None
    test, p = "bootstrap", bootstrap_p(draws_R)
    seed_error = _seed_error(drawn.run_values[first], drawn.run_values[second])
    z_a, z_b = 1.96, 0.84
    needs_seeds = seed_error > 0 and abs(difference) < (z_a + z_b) * seed_error
    if drawn.rows_NS is not None:
        rows_N = drawn.rows_NS[:, second] - drawn.rows_NS[:, first]
        # Means over seeds are sums of thirds and the like: equal ones may differ in the last bit.
        rows_N = np.where(np.abs(rows_N) < 1e-9, 0.0, rows_N)
        wins, losses = int((rows_N > 0).sum()), int((rows_N < 0).sum())
        row_sd = float(rows_N.std())
        needed = None if needs_seeds else rows_needed(difference, row_sd, num_pairs=num_pairs)
        detectable = detectable_difference(row_sd, drawn.num_rows, num_pairs=num_pairs)
        if not has_seeds:
            is_binary = bool(np.isin(drawn.rows_NS[:, [first, second]], (0.0, 100.0)).all())
            test, p = "mcnemar" if is_binary else "sign", sign_test(wins, losses)
    return Pair(
        first=names[first],
        second=names[second],
        difference=difference,
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        test=test,
        p=p,
        p_holm=p,
        is_separable=False,
        rows_needed=needed,
        detectable=detectable,
        needs_seeds=needs_seeds,
    )


def _seed_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard error of the difference of two means over seeds, from the settings that have several."""
    variances = [float(np.var(runs, ddof=1)) / len(runs) for runs in (first, second) if len(runs) > 1]
    return float(np.sqrt(sum(variances)))
