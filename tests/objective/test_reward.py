"""Reward model: loss and metrics by hand."""

import math
from dataclasses import dataclass

import pytest
import torch

from loratory.config import ObjectiveConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.templates import bind_template
from loratory.errors import DataError
from loratory.objective import make_objective
from loratory.objective.reward import RewardObjective
from loratory.objective.row import Row, UnusableRowError, batch_of
from loratory.tree.classes import scored_sequence
from loratory.tree.tree import TokenTree

PAIR = Record((Turn("user", "q"),), Origin("rows.json", 7), alternatives=("good", "bad one"))


@dataclass
class GivenScores:
    """A model that gives these scores, one for each sequence."""

    scores: tuple[float, ...]
    path = "given"
    reason = "test"

    def class_scores(self, tree: TokenTree) -> torch.Tensor:
        return torch.tensor(self.scores, dtype=torch.float64)[:, None]


def rows(*margins: float | None) -> list[Row]:
    pair = (scored_sequence([5, 6, 7]), scored_sequence([5, 6, 8]))
    return [
        Row(pair, f"rows.json:{i}", 1.0, {} if margin is None else {"margin": torch.tensor([margin]).numpy()})
        for i, margin in enumerate(margins)
    ]


def test_loss_is_bradley_terry_with_margin_and_centring() -> None:
    objective = make_objective(ObjectiveConfig(name="reward", reward={"center_coefficient": 0.01}), batch_size=2)
    loss = objective.loss(GivenScores((2.0, 0.5, -1.0, 1.0)), batch_of(rows(0.5, None)))  # type: ignore[arg-type]
    first = math.log(1 + math.exp(-(2.0 - 0.5 - 0.5))) + 0.01 * 2.5**2
    second = math.log(1 + math.exp(2.0)) + 0.0
    assert float(loss.sum) == pytest.approx(first + second, abs=1e-12)
    assert loss.count == 2.0
    plain = RewardObjective().loss(GivenScores((0.0, 0.0)), batch_of(rows(None)))  # type: ignore[arg-type]
    assert float(plain.sum) == pytest.approx(math.log(2))


def test_metrics_and_calibration_by_hand() -> None:
    objective = RewardObjective()
    gap = math.log(3)  # sigma is 0.75
    scores = (gap, 0.0, gap, 0.0, gap, 0.0, 0.0, gap, 0.1, 0.0)  # four pairs at 0.75, three right; one at 0.525, right
    metrics = objective.loss(GivenScores(scores), batch_of(rows(*[None] * 5))).metrics  # type: ignore[arg-type]
    summary = objective.summary(metrics)
    assert summary["accuracy"] == pytest.approx(0.8)
    assert summary["reward_margin"] == pytest.approx((2 * gap + 0.1) / 5)
    assert summary["accuracy_0.7_0.8"] == pytest.approx(0.75)
    assert summary["confidence_0.7_0.8"] == pytest.approx(0.75)
    assert summary["accuracy_0.5_0.6"] == 1.0
    near = 1 / (1 + math.exp(-0.1))
    assert summary["calibration_error"] == pytest.approx((1 - near) / 5, abs=1e-7)


def test_certain_scores_fall_into_the_last_bin() -> None:
    metrics = RewardObjective().loss(GivenScores((90.0, -90.0)), batch_of(rows(None))).metrics  # type: ignore[arg-type]
    assert metrics["accuracy_0.9_1.0"] == (1.0, 1.0)


def test_a_pair_becomes_two_sequences_of_one_prompt(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    template = bind_template("alpaca", tiny_tokenizer)
    objective = RewardObjective()
    chosen, rejected = objective.sequences(PAIR, template)
    prompt = template.generation_prompt(PAIR)
    assert chosen.prompt_length == rejected.prompt_length == len(prompt)
    assert chosen.token_ids[: len(prompt)].tolist() == prompt
    assert chosen.token_ids[-2] == tiny_tokenizer.eos_token_id
    assert tiny_tokenizer.decode(rejected.token_ids[len(prompt) : -2]) == "bad one"
    assert objective.count((chosen, rejected)) == 1.0
    tree = batch_of([Row((chosen, rejected), "rows.json:1", 1.0)]).tree
    assert tree.num_tokens == len(chosen) + len(rejected) - 2 - len(prompt)


def test_rows_that_are_no_pairs_or_teach_nothing(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    template = bind_template("alpaca", tiny_tokenizer)
    objective = RewardObjective()
    equal = Record(PAIR.turns, PAIR.origin, alternatives=("same", "same"))
    with pytest.raises(UnusableRowError, match="equal"):
        objective.sequences(equal, template)
    with pytest.raises(DataError, match=r"rows\.json:7: the row is no preference pair"):
        objective.sequences(Record((Turn("user", "q"), Turn("assistant", "a")), PAIR.origin), template)
