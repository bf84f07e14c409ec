import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from loratory.config import ObjectiveConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.errors import DataError
from loratory.objective import SftObjective, make_objective
from loratory.objective.row import Row, batch_of
from loratory.tree.scorer import WeightedNll
from loratory.tree.tree import TokenTree


@dataclass
class UniformScorer:
    """A model that gives every one of 8 tokens the same probability."""

    path = "uniform"
    reason = "test"

    def nll(self, tree: TokenTree) -> WeightedNll:
        logprobs_N = self.logprobs(tree)
        return WeightedNll(-(logprobs_N * tree.weights_N).sum(), 1.0, float(len(tree.label_M)))

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        return torch.full(tree.targets_N.shape, -math.log(8))


class OneTemplate:
    name = "one"
    stop_token_ids = (2,)

    def __init__(self, weights: list[float]) -> None:
        self._weights = weights

    def sequence(self, record: Record) -> TokenSequence:
        ids = np.arange(1, 1 + len(self._weights), dtype=np.int64)
        return TokenSequence(ids, np.array(self._weights, dtype=np.float32), prompt_length=1)


RECORD = Record((Turn("user", "q"), Turn("assistant", "a")), Origin("rows.json", 7))


def test_loss_is_a_sum_and_count_its_weights() -> None:
    objective = SftObjective()
    row = objective.sequences(RECORD, OneTemplate([0, 0, 1, 1, 0.5]))  # type: ignore[arg-type]
    assert objective.count(row) == 2.5
    loss = objective.loss(UniformScorer(), batch_of([Row(row, "rows.json:1", 2.5)]))
    assert loss.count == 2.5
    assert float(loss.sum) == pytest.approx(2.5 * math.log(8))
    assert loss.metrics == {"token_accuracy": (1.0, 3.0)}


def test_a_row_without_supervised_token_is_refused_by_place() -> None:
    with pytest.raises(DataError, match=r"rows\.json:7: no supervised token"):
        SftObjective().sequences(RECORD, OneTemplate([0, 0, 0]))  # type: ignore[arg-type]


def test_make_objective() -> None:
    assert make_objective(ObjectiveConfig(name="sft")).name == "sft"


def test_an_answer_labelled_bad_is_not_taught() -> None:
    template = OneTemplate([0, 1])
    assert SftObjective().sequences(replace(RECORD, label=True), template)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"rows\.json:7: the answer is labelled a bad one"):
        SftObjective().sequences(replace(RECORD, label=False), template)  # type: ignore[arg-type]
