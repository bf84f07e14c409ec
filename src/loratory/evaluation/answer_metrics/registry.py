"""All metrics of answers by name."""

from collections.abc import Sequence

from loratory.errors import ConfigError, suggest
from loratory.evaluation.answer_metrics.classes import WHOLE_ANSWER, Classes, class_rule
from loratory.evaluation.answer_metrics.corpus_bleu import CorpusBleu
from loratory.evaluation.answer_metrics.family import Family
from loratory.evaluation.answer_metrics.items import Items
from loratory.evaluation.answer_metrics.match import DEFAULT_LONG_ANSWER_CHARS, Match
from loratory.evaluation.answer_metrics.rouge_english import RougeEnglish
from loratory.evaluation.answer_metrics.similarity_chinese import SimilarityChinese
from loratory.evaluation.answer_metrics.tokens import Tokens

_PREFIX = "predict_"


def families(
    labels: Sequence[str], *, long_answer_chars: int = DEFAULT_LONG_ANSWER_CHARS, class_by: str | None = None
) -> tuple[Family, ...]:
    """Every family, set up for some labels.

    Args:
        labels: What answers are compared with; they decide what a class is unless `class_by` does.
        long_answer_chars: A label is long above this many characters.
        class_by: What makes a class of an answer, such as `answer:prefix(_)`.
    """
    rule = class_by or class_rule(labels)
    return (
        Match(long_answer_chars=long_answer_chars),
        SimilarityChinese(),
        Items(),
        Tokens(),
        Classes(rule=rule),
        RougeEnglish(),
        CorpusBleu(),
    )


def metric_names() -> tuple[str, ...]:
    """The names of all metrics."""
    return tuple(each.name for family in families((), class_by=WHOLE_ANSWER) for each in family.definitions)


def fitting_metrics(found: Sequence[Family], labels: Sequence[str]) -> tuple[str, ...]:
    """The metrics that are computed when none are asked for: those that fit the labels."""
    return tuple(each.name for family in found if family.fits(labels) for each in family.definitions)


def resolve_metrics(names: Sequence[str], found: Sequence[Family]) -> tuple[str, ...]:
    """Plain names of metrics given by name, by id (`rouge-l@rouge_chinese+jieba`) or as `predict_rouge-l`.

    Raises:
        ConfigError: A metric's name is unknown.
    """
    known = {each.name: each.name for family in found for each in family.definitions}
    known |= {each.id: each.name for family in found for each in family.definitions}
    faults = [
        f"metrics: unknown metric '{name}'; known: {', '.join(metric_names())}.{suggest(name, metric_names())}"
        for name in names
        if name.removeprefix(_PREFIX) not in known
    ]
    if faults:
        raise ConfigError(faults)
    return tuple(dict.fromkeys(known[name.removeprefix(_PREFIX)] for name in names))
