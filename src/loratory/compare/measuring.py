"""Metrics of several runs' predictions: equal answers of different runs are measured once."""

from collections.abc import Sequence

from loratory.compare.run_facts import Answers
from loratory.errors import MissingExtraError
from loratory.evaluation.answer_metrics.family import Definition, Statistics
from loratory.evaluation.answer_metrics.registry import families, fitting_metrics, resolve_metrics

Measured = tuple[Definition, list[list[Statistics]]]


def measure_answers(
    answers: Sequence[Sequence[Answers]], metrics: Sequence[str] | None, *, long_answer_chars: int
) -> tuple[list[Measured], tuple[str, ...]]:
    """Statistics of each metric for each run of each setting, and notes on what was left out.

    Args:
        answers: Predictions of the same rows, for each run of each setting.
        metrics: Names or ids; None takes those that fit the labels and whose libraries are installed.
        long_answer_chars: A label is long above this many characters.

    Raises:
        ConfigError: A metric is unknown.
        MissingExtraError: A metric that was asked for needs a library.
    """
    labels = [row.label for row in answers[0][0].rows]
    found = families(labels, long_answer_chars=long_answer_chars)
    wanted = fitting_metrics(found, labels) if metrics is None else resolve_metrics(metrics, found)
    # What a row contributes depends on its own texts and on the labels there are, which are the same in this list.
    distinct = dict.fromkeys((row.predict, row.label) for group in answers for each in group for row in each.rows)
    places = {texts: place for place, texts in enumerate(distinct)}
    rows = [[[places[row.predict, row.label] for row in each.rows] for each in group] for group in answers]
    measured: dict[str, Measured] = {}
    notes = []
    for family in found:
        definitions = {each.name: each for each in family.definitions if each.name in wanted}
        if not definitions:
            continue
        try:
            results = family.measure(
                [prediction for prediction, _ in places], [label for _, label in places], tuple(definitions)
            )
        except MissingExtraError as error:
            if metrics is not None:
                raise
            notes.append(f"left out: {', '.join(definitions)}. {error}")
            continue
        for name, definition in definitions.items():
            values_NK, combine = results[name].values_NK, results[name].combine
            measured[name] = (definition, [[Statistics(values_NK[run], combine) for run in group] for group in rows])
    return [measured[name] for name in wanted if name in measured], tuple(notes)
