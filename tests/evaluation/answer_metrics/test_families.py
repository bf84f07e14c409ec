"""Values that can be checked by hand, and those of the packages the ids name."""

import random
import sys

import pytest

from loratory.errors import ConfigError, MissingExtraError
from loratory.evaluation.answer_metrics.classes import class_rule, class_table, classes_of
from loratory.evaluation.answer_metrics.items import items_of
from loratory.evaluation.answer_metrics.registry import families, fitting_metrics
from loratory.evaluation.answer_metrics.tokens import answer_tokens
from loratory.evaluation.text import score_rows, score_texts


@pytest.mark.parametrize(
    ("prediction", "label", "precision", "recall", "f1"),
    [
        ("a|b", "b|a", 100, 100, 100),
        ("a|b|c|d", "a|b", 50, 100, 200 / 3),
        ("a|a", "a", 50, 100, 200 / 3),
        (" a | ", "a|b", 100, 50, 200 / 3),
        ("x", "a|b", 0, 0, 0),
    ],
)
def test_items(prediction: str, label: str, precision: float, recall: float, f1: float) -> None:
    got = score_rows([prediction], [label], metrics=["item_precision", "item_recall", "item_f1"])
    assert [values[0] for values in got.values()] == pytest.approx([precision, recall, f1])
    assert items_of("a| |b") == ["a", "b"]


def test_token_f1_is_squads() -> None:
    assert answer_tokens("The U.S. is, a  PLACE!") == ["us", "is", "place"]
    got = score_rows(["the cat sat", "yes", "no"], ["a cat sat down", "Yes.", "yes"], metrics=["token_f1"])["token_f1"]
    assert got.tolist() == pytest.approx([100 * 2 * 1 * (2 / 3) / (1 + 2 / 3), 100, 0])


def test_class_table_by_hand() -> None:
    labels = ["a_1", "a_2", "a_3", "b_1"]
    table = class_table(["a_9", "b_1", "zzz", "b_7"], labels, "answer:prefix(_)")
    first, second = table.rows
    assert (first.name, first.support, first.predicted) == ("a", 3, 1)
    assert (first.precision, first.recall, first.f1) == pytest.approx((100, 100 / 3, 50))
    assert (second.precision, second.recall, second.f1) == pytest.approx((50, 100, 200 / 3))
    assert table.confusion == {"a": {"a": 1, "b": 1, "(other)": 1}, "b": {"b": 1}}
    scores = score_texts(
        ["a_9", "b_1", "zzz", "b_7"], labels, metrics=["macro_f1", "class_accuracy"], class_by=table.rule
    )
    assert scores["macro_f1"].value == pytest.approx((50 + 200 / 3) / 2)
    assert scores["class_accuracy"].value == 50


def test_what_makes_a_class() -> None:
    assert class_rule(["yes", "no"] * 5) == "answer"
    assert class_rule([f"{family}_{i}" for i in range(20) for family in ("open", "close")]) == "answer:prefix(_)"
    assert class_rule([f"free text {i}" for i in range(40)]) is None
    assert classes_of([" open_1|x "], "answer:first(|)") == ["open_1"]
    with pytest.raises(ConfigError, match="must begin with 'answer'"):
        classes_of(["x"], "output:prefix(_)")


def test_defaults_fit_the_labels() -> None:
    def names(labels: list[str]) -> set[str]:
        return set(fitting_metrics(families(labels), labels)) - {
            "exact_match", "exact_match_long", "bleu-4", "rouge-1", "rouge-2", "rouge-l"
        }  # fmt: skip

    assert names(["a_1|b_2", "c_1"] * 5) == {"item_precision", "item_recall", "item_f1", "class_accuracy", "macro_f1"}
    assert names([f"free text {i}" for i in range(9)]) == {"token_f1"}
    assert names(["x1", "x2", "x3"]) == set()


def test_rouge_score_is_the_packages() -> None:
    got = score_rows(["the cat sat", "猫"], ["The cats sat.", "猫"], metrics=["rouge1", "rouge2", "rougeL"])
    assert got["rouge1"].tolist() == pytest.approx([200 / 3, 0])
    assert got["rouge2"].tolist() == [0, 0]
    assert got["rougeL"].tolist() == pytest.approx([200 / 3, 0])


def test_bleu_is_sacrebleus() -> None:
    from sacrebleu.metrics.bleu import BLEU

    chance = random.Random(2)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", ",", "it", "slept", "."]
    for num_rows in (1, 3, 12):
        predictions = [" ".join(chance.choices(words, k=chance.randrange(1, 12))) for _ in range(num_rows)]
        labels = [" ".join(chance.choices(words, k=chance.randrange(1, 12))) for _ in range(num_rows)]
        got = score_texts(predictions, labels, metrics=["bleu"])["bleu"].value
        assert got == pytest.approx(BLEU().corpus_score(predictions, [labels]).score)


def test_a_number_of_the_whole_set_has_no_rows() -> None:
    with pytest.raises(ConfigError, match="bleu belong to the whole set"):
        score_rows(["a"], ["a"], metrics=["bleu"])


@pytest.mark.parametrize(("module", "metric"), [("rouge_score", "rougeL"), ("sacrebleu", "bleu")])
def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str, metric: str) -> None:
    for name in [module, f"{module}.rouge_scorer", f"{module}.metrics.bleu"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"loratory\[metrics\]"):
        score_texts(["a"], ["a"], metrics=[metric])
