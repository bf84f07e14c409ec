"""Filters and draws on distributions small enough to check by hand."""

import pytest
import torch

from loratory.errors import ConfigError
from loratory.infer.sampling import Sampling, draw_tokens, row_uniforms

# Probabilities 0.5, 0.3, 0.15, 0.05 at tokens 2, 0, 3, 1.
LOGITS = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).log()


def draw(u: float, sampling: Sampling) -> int:
    return int(draw_tokens(LOGITS, torch.tensor([u], dtype=torch.float64), sampling))


@pytest.mark.parametrize(("u", "token"), [(0.0, 2), (0.49, 2), (0.51, 0), (0.81, 3), (0.96, 1), (1 - 1e-16, 1)])
def test_inverse_of_the_cumulative_sum(u: float, token: int) -> None:
    assert draw(u, Sampling()) == token


def test_top_k_renormalises() -> None:
    # 0.5 : 0.3 -> 0.625, 0.375
    assert [draw(u, Sampling(top_k=2)) for u in (0.62, 0.63, 0.9999999)] == [2, 0, 0]


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    # 0.5 < 0.7, so token 0 is kept too; token 3 has 0.8 before it.
    assert {draw(u / 100, Sampling(top_p=0.7)) for u in range(100)} == {2, 0}
    assert {draw(u / 100, Sampling(top_p=0.01)) for u in range(100)} == {2}


def test_low_temperature_is_greedy() -> None:
    assert {draw(u / 100, Sampling(temperature=0.01)) for u in range(100)} == {2}


def test_shares_follow_the_distribution() -> None:
    uniforms = row_uniforms(1, 0, 20_000)
    tokens = draw_tokens(LOGITS.expand(20_000, -1), uniforms, Sampling())
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.3, 0.05, 0.5, 0.15], abs=0.015)


def test_rows_have_their_own_numbers_and_longer_rows_extend_shorter() -> None:
    assert torch.equal(row_uniforms(1, 3, 10), row_uniforms(1, 3, 20)[:10])
    assert not torch.equal(row_uniforms(1, 3, 10), row_uniforms(1, 4, 10))
    assert not torch.equal(row_uniforms(1, 3, 10), row_uniforms(2, 3, 10))


def test_values_out_of_range_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(temperature=0, top_p=0, top_k=-1)
    assert len(caught.value.faults) == 3
