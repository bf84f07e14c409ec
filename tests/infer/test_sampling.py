"""Filters and draws on distributions small enough to check by hand."""

import pytest
import torch

from loratory.errors import ConfigError
from loratory.infer.sampling import Sampling, _draw_from_all, _draw_from_head, draw_tokens, row_uniforms

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


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("top_k", [0, 1, 40, 400, 999, 1000])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 30.0])
def test_drawing_from_the_head_is_drawing_from_the_sorted_vocabulary(
    temperature: float, top_k: int, top_p: float
) -> None:
    # Rounding makes many logits equal; rows go from a single likely token to almost even ones.
    generator = torch.Generator().manual_seed(7)
    spread_B1 = torch.logspace(-2, 1.3, 200).unsqueeze(1)
    logits = (torch.randn(200, 1000, generator=generator) * spread_B1).bfloat16()
    uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(draw_tokens(logits, uniforms, sampling), _draw_from_all(logits, uniforms, sampling))


def test_most_draws_need_the_head_alone() -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(200, 5000, generator=generator) * 4
    uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
    for sampling in (Sampling(), Sampling(top_p=0.9), Sampling(top_k=50)):
        _, is_certain = _draw_from_head(logits, uniforms, sampling, 256)
        assert is_certain.float().mean() > 0.85


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
