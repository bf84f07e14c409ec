"""KTO small enough to check by hand."""

import math

import numpy as np
import pytest
from test_preference import FixedScorer, sequence

from loratory.config import ObjectiveConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.errors import DataError
from loratory.objective import make_objective
from loratory.objective.row import Row, batch_of

OBJECTIVE = make_objective(
    ObjectiveConfig.model_validate({"name": "kto", "preference": {"beta": 0.5, "undesirable_weight": 2.0}})
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rows(reference_of_companion: float = -1.5) -> list[Row]:
    made = []
    for answer, label in ((sequence(3, 4), 1.0), (sequence(5, 6, 7), 0.0)):
        facts = {"label": np.array([label]), "reference_nats": np.array([-1.0, reference_of_companion])}
        made.append(Row((answer,), "", 1.0, facts, companions=(sequence(8),)))
    return made


def test_loss_compares_with_the_batch_wide_divergence() -> None:
    # The companions' log-ratios are -0.8 + 1.5 = 0.7; the answers' -0.7 + 1 = 0.3 and -1.8 + 1 = -0.8.
    statistics = {name: total / n for name, (total, n) in OBJECTIVE.statistics(FixedScorer(), rows()).items()}
    assert statistics == pytest.approx({"kl_nats": 0.7})
    loss = OBJECTIVE.loss(FixedScorer(), batch_of(rows(), statistics))
    expected = (1 - sigmoid(0.5 * (0.3 - 0.7))) + 2.0 * (1 - sigmoid(0.5 * (0.7 + 0.8)))
    assert loss.count == 2
    assert float(loss.sum) == pytest.approx(expected, abs=1e-12)
    means = {name: total / n for name, (total, n) in loss.metrics.items()}
    assert means == pytest.approx({"kl": 0.7, "reward_chosen": 0.15, "reward_rejected": -0.4})


def test_a_negative_divergence_counts_as_none() -> None:
    loss = OBJECTIVE.loss(FixedScorer(), batch_of(rows(), {"kl_nats": -3.0}))
    expected = (1 - sigmoid(0.5 * 0.3)) + 2.0 * (1 - sigmoid(0.5 * 0.8))
    assert float(loss.sum) == pytest.approx(expected, abs=1e-12)


def test_companions_are_the_next_rows_answers_behind_the_own_prompt(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    template = bind_template("chat", tiny_tokenizer)
    records = [
        Record((Turn("user", f"question {i}"), Turn("assistant", f"answer {i}")), Origin("k.json", i), label=i != 1)
        for i in range(3)
    ]
    made = [
        Row(OBJECTIVE.sequences(record, template), str(record.origin), 1.0, OBJECTIVE.facts(record))
        for record in records
    ]
    assert [row.facts["label"][0] for row in made] == [1.0, 0.0, 1.0]
    complete = OBJECTIVE.complete(made, cutoff_len=2048)
    for index, row in enumerate(complete):
        text = tiny_tokenizer.decode(row.companions[0].token_ids)
        assert f"question {index}" in text
        assert f"answer {(index + 1) % 3}" in text
        assert f"answer {index}" not in text
    length = len(complete[0].companions[0])
    short = OBJECTIVE.complete(made, cutoff_len=length - 2)
    assert len(short[0].companions[0]) == length - 2
    with pytest.raises(DataError, match="at least 2 usable rows"):
        OBJECTIVE.complete(made[:1], cutoff_len=2048)


def test_a_row_without_label_is_refused_by_place(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    record = Record((Turn("user", "q"), Turn("assistant", "a")), Origin("k.json", 4))
    with pytest.raises(DataError, match=r"k\.json:4: the row has no label"):
        OBJECTIVE.sequences(record, bind_template("chat", tiny_tokenizer))
