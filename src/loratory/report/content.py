"""What a report shows, gathered from run directories: the one source of both the page and its Markdown twin."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.compare import Comparison, RunFacts, compare_runs, read_runs
from loratory.compare.comparison import BEST, base_answers
from loratory.compare.run_facts import Answers, choose_predictions, read_answers
from loratory.errors import RunError
from loratory.evaluation.answer_metrics.classes import ClassTable, class_rule, class_table
from loratory.report.importance import Importance, importances
from loratory.report.study import Study, open_studies

ALL_PAIRS_UP_TO = 6
MAX_SINGLE_NOTES = 6
CERTIFICATE = "merge_certificate.json"


@dataclass(frozen=True, slots=True)
class Column:
    """Answers of one run or base to the test rows.

    Attributes:
        title: The run's name, or `base`.
        answers: Its predictions.
        is_base: The model before training.
    """

    title: str
    answers: Answers
    is_base: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """A merge certificate and the run whose adapter was merged.

    Attributes:
        run: The run's name.
        path: The certificate.
        content: Its values.
    """

    run: str
    path: Path
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """Everything a report shows.

    Attributes:
        runs: In the order given.
        comparison: Of the runs with predictions; None when there are none.
        settings: Name of the setting of each run, by the run's path.
        columns: Answers, bases first.
        classes: Scores of each class for each column by its title; empty when the labels are no classes.
        importance: Of each key that differs.
        certificates: Found in and beside the run directories.
        notes: What a reader should know.
        studies: Those that the runs are trials of, where folders of studies were given.
    """

    runs: tuple[RunFacts, ...]
    comparison: Comparison | None
    settings: Mapping[Path, str]
    columns: tuple[Column, ...]
    classes: Mapping[str, ClassTable]
    importance: tuple[Importance, ...]
    certificates: tuple[Certificate, ...]
    notes: tuple[str, ...]
    studies: tuple[Study, ...] = ()


def gather(
    paths: Sequence[Path],
    *,
    predictions: str | None = None,
    metrics: Sequence[str] | None = None,
    primary: str | None = None,
) -> Content:
    """Read runs and compare those that have predictions.

    Args:
        paths: Run directories, one or more; the folder of a study stands for its finished trials.
        predictions: Name of the predictions; None takes those that the runs have.
        metrics: Names of metrics; None takes those that fit the labels.
        primary: The metric that settings are ranked by.

    Raises:
        RunError: A path is no run, or holds nothing to report.
        DataError: Runs answered different rows, or the choice among several predictions is open.
        ConfigError: A metric is unknown.
    """
    places, studies = open_studies(paths)
    runs = read_runs(places)
    empty = [str(run.path) for run in runs if not run.metrics and not run.is_finished and not run.prediction_names]
    if empty:
        raise RunError(
            f"{', '.join(empty)}: nothing to report: no logged step, no final model, no predictions. "
            "Train it first: loratory train RUN.yaml --resume"
        )
    with_predictions = tuple(run for run in runs if run.prediction_names)
    if predictions is not None:
        with_predictions = runs
    notes = _missing_predictions([run for run in runs if run not in with_predictions])
    if not with_predictions:
        return Content(runs, None, {}, (), {}, (), _certificates(runs), notes, studies)
    name = choose_predictions(with_predictions, predictions)
    bases = base_answers(with_predictions, name)
    comparison = compare_runs(
        with_predictions,
        predictions=name,
        metrics=metrics,
        primary=primary,
        baseline=None if len(with_predictions) + len(bases) <= ALL_PAIRS_UP_TO else BEST,
        with_base=bool(bases),
    )
    settings = {Path(path): each.name for each in comparison.settings if not each.is_base for path in each.runs}
    columns = answer_columns(with_predictions, name)
    return Content(
        runs=runs,
        comparison=comparison,
        settings=settings,
        columns=columns,
        classes=_classes(columns),
        importance=importances(with_predictions, run_values(comparison)),
        certificates=_certificates(runs),
        notes=notes,
        studies=studies,
    )


def _missing_predictions(runs: Sequence[RunFacts]) -> tuple[str, ...]:
    """What to do for scores; one line stands for many runs."""
    if len(runs) > MAX_SINGLE_NOTES:
        names = ", ".join(run.name for run in runs[:MAX_SINGLE_NOTES])
        return (f"{len(runs)} runs have no predictions, so they have no scores ({names}, …): loratory predict RUN",)
    notes = []
    for run in runs:
        source = run.config.get("data.test") or "FILE"
        todo = f"loratory predict {run.path} --data {source}" if run.is_finished else "finish its training first"
        notes.append(f"{run.name} has no predictions, so it has no scores: {todo}")
    return tuple(notes)


def answer_columns(runs: tuple[RunFacts, ...], name: str) -> tuple[Column, ...]:
    """Answers of the runs and of their untrained bases to the same rows; bases first.

    Raises:
        DataError: Predictions are missing or damaged.
    """
    titled = zip(run_titles(runs), runs, strict=True)
    return (
        *(Column(title, answers, True) for title, _, answers in base_answers(runs, name)),
        *(Column(title, read_answers(run, name), False) for title, run in titled),
    )


def run_titles(runs: Sequence[RunFacts]) -> tuple[str, ...]:
    """A name for each run: its folder's, or its path where folders are named alike."""
    names = [run.name for run in runs]
    return tuple(run.name if names.count(run.name) == 1 else str(run.path) for run in runs)


def run_values(comparison: Comparison) -> dict[Path, float]:
    """The primary metric of each run, percent."""
    metric = comparison.metric(comparison.primary)
    return {
        Path(path): value
        for setting in comparison.settings
        if not setting.is_base
        for path, value in zip(setting.runs, metric.score(setting.name).runs, strict=True)
    }


def _classes(columns: Sequence[Column]) -> dict[str, ClassTable]:
    labels = [row.label for row in columns[0].answers.rows]
    rule = class_rule(labels)
    if rule is None:
        return {}
    return {column.title: class_table([row.predict for row in column.answers.rows], labels, rule) for column in columns}


def _certificates(runs: Sequence[RunFacts]) -> tuple[Certificate, ...]:
    """Certificates in the run directories and in the folders beside them that name a run's adapter."""
    found = []
    for run in runs:
        if run.adapter_sha256 is None:
            continue
        places = sorted({*run.path.glob(f"*/{CERTIFICATE}"), *run.path.resolve().parent.glob(f"*/{CERTIFICATE}")})
        for path in places:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and content.get("adapter_sha256") == run.adapter_sha256:
                found.append(Certificate(run.name, path, content))
    return tuple(found)
