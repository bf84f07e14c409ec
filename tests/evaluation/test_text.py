"""Text metrics: the published golden vectors, and the package's own table for the longest common subsequence."""

import random
import subprocess
import sys

import numpy as np
import pytest

from loratory.errors import ConfigError, DataError, MissingExtraError
from loratory.evaluation.similarity import lcs_length
from loratory.evaluation.text import TEXT_METRICS, score_rows, score_texts

# prediction, label, rouge-1, rouge-2, rouge-l, bleu-4; by jieba 0.42.1, rouge-chinese 1.0.3, nltk 3.10.4.
GOLDEN = [
    ("The cat sat on the mat.", "The cat sat on the mat.", 100.0, 100.0, 100.0, 100.0),
    ("The cat is on the mat.", "The cat sat on the mat.", 85.7143, 66.6667, 85.7143, 79.6321),
    ("the the the the the", "the cat sat on the mat", 33.3333, 0.0, 36.3636, 29.7209),
    ("今天天气很好，我们去公园散步吧。", "今天天气不错，我们一起去公园走走吧。", 70.0, 33.3333, 70.0, 27.0225),
    ("42", "42", 100.0, 0.0, 100.0, 59.4604),
    ("A", "A", 100.0, 0.0, 100.0, 35.3553),
    ("A", "B", 0, 0, 0, 0),
    ("", "x", 0, 0, 0, 0),
    ("x", "", 0, 0, 0, 0),
    ("   ", "x", 0, 0, 0, 0),
    ("Line one.\n\nLine two.", "Line one.\n\nLine two is longer.", 83.3333, 71.4286, 87.5, 58.1024),
    ("Yes? No! Maybe? ok", "Yes? No? Maybe! ok", 100.0, 33.3333, 71.4286, 71.225),
    (
        "Paris is the capital of France, and it's 3.14 times bigger.",
        "The capital of France is Paris.",
        54.5455,
        20.0,
        36.3636,
        42.5723,
    ),
]


@pytest.mark.parametrize(("prediction", "label", "rouge_1", "rouge_2", "rouge_l", "bleu_4"), GOLDEN)
def test_golden_vectors(
    prediction: str, label: str, rouge_1: float, rouge_2: float, rouge_l: float, bleu_4: float
) -> None:
    scores = score_texts([prediction], [label])
    got = {name: scores[name].value for name in ("rouge-1", "rouge-2", "rouge-l", "bleu-4")}
    assert got == {"rouge-1": rouge_1, "rouge-2": rouge_2, "rouge-l": rouge_l, "bleu-4": bleu_4}


def test_corpus_value_is_the_mean_of_rounded_rows() -> None:
    scores = score_texts([row[0] for row in GOLDEN], [row[1] for row in GOLDEN])
    assert scores["rouge-l"].value == pytest.approx(np.mean([row[4] for row in GOLDEN]), abs=1e-12)
    assert scores["bleu-4"].n == len(GOLDEN)


def test_lcs_equals_the_packages_table() -> None:
    from rouge_chinese.rouge_score import _len_lcs

    chance = random.Random(0)
    for _ in range(200):
        first = [chance.choice("abcd ") for _ in range(chance.randrange(40))]
        second = [chance.choice("abcd ") for _ in range(chance.randrange(40))]
        assert lcs_length(first, second) == _len_lcs(first, second)


def test_rouge_equals_the_package_on_random_text() -> None:
    import jieba
    from rouge_chinese import Rouge

    chance = random.Random(1)
    words = ["cancel_68", "the", "plan", "9.9", "|", "流量包", "取消", "？", "。", "\n", "\n\n", "......", "”", "ok"]
    for _ in range(60):
        prediction = " ".join(chance.choices(words, k=chance.randrange(1, 25)))
        label = "".join(chance.choices(words, k=chance.randrange(1, 25)))
        scores = score_rows([prediction], [label])
        cut = [" ".join(jieba.cut(text)) for text in (prediction, label)]
        if not all(text.split() for text in cut):
            continue
        expected = Rouge().get_scores(*cut)[0]
        for name in ("rouge-1", "rouge-2", "rouge-l"):
            assert scores[name][0] == round(expected[name]["f"] * 100, 4)


def test_exact_match_strips_outer_whitespace_only() -> None:
    scores = score_texts([" yes\n", "y es", "Yes"], ["yes", "yes", "yes"], metrics=["exact_match"])
    assert scores["exact_match"].value == pytest.approx(100 / 3)
    assert "stripped" in scores["exact_match"].definition


def test_exact_match_long_counts_labels_above_the_limit() -> None:
    labels = ["a" * 10, "b" * 11, "c" * 30]
    scores = score_texts(["x", "b" * 11, "x"], labels, metrics=["exact_match_long"])
    assert (scores["exact_match_long"].n, scores["exact_match_long"].value) == (2, 50.0)
    assert "10 characters" in scores["exact_match_long"].definition


def test_a_metric_without_rows_is_absent() -> None:
    assert list(score_texts(["a"], ["a"], metrics=["exact_match", "exact_match_long"])) == ["exact_match"]


@pytest.mark.parametrize(
    ("predictions", "labels", "metrics", "error", "words"),
    [
        (["a"], [], TEXT_METRICS, DataError, "1 predictions but 0 labels"),
        ([], [], TEXT_METRICS, DataError, "no predictions"),
        (["a"], ["a"], ["rouge-3"], ConfigError, "unknown metric 'rouge-3'"),
    ],
)
def test_bad_input(
    predictions: list[str], labels: list[str], metrics: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        score_texts(predictions, labels, metrics=metrics)


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_chinese", None)
    with pytest.raises(MissingExtraError, match=r"loratory\[metrics\]"):
        score_texts(["a"], ["a"])
    assert score_texts(["a"], ["a"], metrics=["exact_match"])["exact_match"].value == 100


def test_scoring_prints_nothing_and_warns_nothing() -> None:
    code = "from loratory.evaluation.text import score_texts; score_texts(['套餐'], ['套餐'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
