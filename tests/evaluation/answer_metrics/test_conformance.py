"""What every metric of answers keeps, whatever it measures."""

import numpy as np
import pytest

from loratory.errors import ConfigError
from loratory.evaluation.answer_metrics.registry import families, metric_names, resolve_metrics
from loratory.evaluation.text import score_texts

LABELS = [
    "open_1|close the old account", "open_2|keep the plan as it is", "close_7|the new plan is not for me",
    "close_7|the new plan is not for me", "open_1|close the old account",
]  # fmt: skip
WRONG = ["close_7|keep", "open_2|keep the plan", "open_1|zzz", "close_7|the new plan is not for me", "zzz"]
RULE = "answer:prefix(_)"


@pytest.mark.parametrize("name", metric_names())
class TestEveryMetric:
    def test_right_answers_have_all_and_empty_ones_nothing(self, name: str) -> None:
        right = score_texts(LABELS, LABELS, metrics=[name], class_by=RULE)[name]
        assert (right.value, right.low, right.high) == pytest.approx((100.0, 100.0, 100.0))
        nothing = score_texts([""] * len(LABELS), LABELS, metrics=[name], class_by=RULE)[name]
        assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
        assert right.n == nothing.n == len(LABELS)

    def test_partly_right_answers_lie_between_and_inside_their_interval(self, name: str) -> None:
        score = score_texts(WRONG, LABELS, metrics=[name], class_by=RULE)[name]
        assert 0 < score.value < 100
        assert score.low <= score.value <= score.high
        assert score.low < score.high

    def test_neither_the_order_of_rows_nor_their_doubling_counts(self, name: str) -> None:
        once = score_texts(WRONG, LABELS, metrics=[name], class_by=RULE)[name]
        turned = score_texts(WRONG[::-1], LABELS[::-1], metrics=[name], class_by=RULE)[name]
        twice = score_texts(WRONG * 2, LABELS * 2, metrics=[name], class_by=RULE)[name]
        assert once.value == pytest.approx(turned.value) == pytest.approx(twice.value)
        assert twice.n == 2 * once.n

    def test_id_and_name_and_old_key_find_it(self, name: str) -> None:
        found = families(LABELS, class_by=RULE)
        (definition,) = [each for family in found for each in family.definitions if each.name == name]
        assert definition.id.split("@")[0] == name
        assert "percent" in definition.words
        for given in (name, definition.id, f"predict_{name}"):
            assert resolve_metrics([given], found) == (name,)


def test_ids_are_unique_and_change_with_what_is_measured() -> None:
    ids = [each.id for family in families(LABELS, class_by=RULE) for each in family.definitions]
    assert len(set(ids)) == len(ids)
    assert {"bleu-4@nltk-char-method3", "rouge-l@rouge_chinese+jieba", "rougeL@rouge_score", "bleu@sacrebleu"} <= set(
        ids
    )
    other = [each.id for family in families(LABELS, long_answer_chars=20) for each in family.definitions]
    assert "exact_match_long@chars>20" in other
    assert "macro_f1@answer:prefix(_)" in ids


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric .rouge-x..*Did you mean"):
        resolve_metrics(["rouge-x"], families(LABELS))


def test_the_bootstrap_of_a_mean_is_that_of_the_rows() -> None:
    from loratory.evaluation.bootstrap import bootstrap_interval, bootstrap_statistic

    values = np.random.default_rng(0).normal(size=40)
    got = bootstrap_statistic(values[:, None], lambda sums, counts: sums[:, 0] / counts, seed=3)
    assert got == pytest.approx(bootstrap_interval(values, seed=3))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_statistic(np.empty((0, 2)), lambda sums, counts: sums[:, 0])
