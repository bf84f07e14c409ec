"""Preference losses small enough to check by hand."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from loratory.config import ObjectiveConfig
from loratory.data.records import Origin, Record, Turn
from loratory.data.sequence import TokenSequence
from loratory.data.templates import bind_template
from loratory.errors import ConfigError, DataError
from loratory.objective import make_objective
from loratory.objective.loss import LossSum
from loratory.objective.row import Row, UnusableRowError, batch_of
from loratory.tree.tree import TokenTree


@dataclass
class FixedScorer:
    """A model under which token t has log-probability -t / 10, whatever came before."""

    path = "fixed"
    reason = "test"

    def logprobs(self, tree: TokenTree) -> torch.Tensor:
        return -tree.targets_N.double() / 10


def sequence(*answer: int) -> TokenSequence:
    ids = np.array([1, 2, *answer], dtype=np.int64)
    return TokenSequence(ids, np.array([0, 0, *[1] * len(answer)], dtype=np.float32), 2)


# Chosen: -0.3 -0.4 = -0.7 over 2 tokens; rejected: -0.5 -0.6 -0.7 = -1.8 over 3 tokens.
PAIR = (sequence(3, 4), sequence(5, 6, 7))
REFERENCE = np.array([-1.0, -1.5])
MARGIN = (-0.7 + 1.0) - (-1.8 + 1.5)  # 0.6


def loss(name: str, **preference: object) -> LossSum:
    section = ObjectiveConfig.model_validate({"name": name, "preference": preference})
    row = Row(PAIR, "rows.json:1", 1.0, {"reference_nats": REFERENCE})
    return make_objective(section).loss(FixedScorer(), batch_of([row, row]))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("name", "preference", "expected"),
    [
        ("dpo", {"beta": 0.5}, -log_sigmoid(0.3)),
        ("dpo", {"beta": 0.5, "label_smoothing": 0.1}, -0.9 * log_sigmoid(0.3) - 0.1 * log_sigmoid(-0.3)),
        (
            "dpo",
            {"beta": 0.5, "label_smoothing": 0.1, "loss": "robust"},
            (-0.9 * log_sigmoid(0.3) + 0.1 * log_sigmoid(-0.3)) / 0.8,
        ),
        ("dpo", {"beta": 0.5, "loss": "hinge"}, 0.7),
        ("dpo", {"beta": 0.5, "loss": "ipo"}, (0.3 / 2 + 0.3 / 3 - 1) ** 2),
        ("dpo", {"beta": 0.5, "sft_weight": 2.0}, -log_sigmoid(0.3) + 2 * 0.35),
        ("simpo", {"beta": 2.0, "gamma": 0.1}, -log_sigmoid(2 * (-0.35 + 0.6) - 0.1)),
        (
            "orpo",
            {"beta": 0.5},
            0.35 - 0.5 * log_sigmoid(-0.35 + 0.6 - math.log(1 - math.exp(-0.35)) + math.log(1 - math.exp(-0.6))),
        ),
    ],
)
def test_losses(name: str, preference: dict[str, object], expected: float) -> None:
    result = loss(name, **preference)
    assert result.count == 2
    assert float(result.sum) == pytest.approx(2 * expected, abs=1e-12)


def test_rewards_are_logged() -> None:
    metrics = loss("dpo", beta=0.5).metrics
    means = {name: total / count for name, (total, count) in metrics.items()}
    assert means == pytest.approx(
        {
            "reward_chosen": 0.15,
            "reward_rejected": -0.15,
            "reward_margin": 0.5 * MARGIN,
            "reward_accuracy": 1.0,
            "nats_chosen": -0.7,
            "nats_rejected": -1.8,
        }
    )


@pytest.mark.parametrize("likely", [0.0, -1e-30])
def test_certain_answers_give_finite_odds(likely: float) -> None:
    from loratory.objective.preference import _log1mexp

    x = torch.tensor([likely, -0.5, -40.0], requires_grad=True)
    value = _log1mexp(x)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad[1:]).all()
    assert float(value[1].detach()) == pytest.approx(math.log(1 - math.exp(-0.5)), abs=1e-6)


QUESTION = (Turn("user", "q"), Turn("assistant", "first"), Turn("user", "and then?"))


def test_a_pair_weighs_its_last_answers_alone(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    template = bind_template("chat", tiny_tokenizer)
    record = Record(QUESTION, Origin("pairs.json", 3), alternatives=("yes", "no, never"))
    chosen, rejected = make_objective(ObjectiveConfig(name="dpo")).sequences(record, template)
    prompt = template.generation_prompt(record)
    for answer, text in ((chosen, "yes"), (rejected, "no, never")):
        assert answer.token_ids[: answer.prompt_length].tolist() == prompt
        assert (np.flatnonzero(answer.weights) == np.arange(len(prompt), len(answer))).all()
        assert text in tiny_tokenizer.decode(answer.token_ids[answer.prompt_length :])


@pytest.mark.parametrize(
    ("alternatives", "reason"), [(("same", "same"), "are equal"), (("good", " "), "an answer is empty")]
)
def test_pairs_that_teach_nothing_are_left_out(tiny_tokenizer, alternatives, reason) -> None:  # type: ignore[no-untyped-def]
    record = Record(QUESTION, Origin("pairs.json", 3), alternatives=alternatives)
    with pytest.raises(UnusableRowError, match=reason):
        make_objective(ObjectiveConfig(name="simpo")).sequences(record, bind_template("chat", tiny_tokenizer))


def test_a_row_that_is_no_pair_is_refused_by_place(tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    record = Record((*QUESTION, Turn("assistant", "a")), Origin("pairs.json", 3))
    with pytest.raises(DataError, match=r"pairs\.json:3: the row is no preference pair"):
        make_objective(ObjectiveConfig(name="orpo")).sequences(record, bind_template("chat", tiny_tokenizer))


def test_settings_without_effect_are_refused() -> None:
    from loratory.config import build_config

    content = {"model": {"model_name_or_path": "m"}, "data": {"train": "t"}, "objective": {"preference": {"beta": 1}}}
    with pytest.raises(ConfigError, match=r"'preference' has no effect under objective\.name 'sft'"):
        build_config(content)
