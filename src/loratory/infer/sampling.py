"""Choosing the next token: the likeliest one, or a draw that depends on (seed, row, step) and on nothing else."""

import hashlib
from dataclasses import dataclass

import torch

from loratory.errors import ConfigError

_HEAD_TOKENS = 256
"""Almost every draw falls among so many of the likeliest tokens; then the whole vocabulary need not be sorted."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Logits are divided by it; above 0.
        top_p: Keep the likeliest tokens whose probabilities reach this sum; 0 < top_p <= 1.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        seed: With a row's number it fixes that row's draws, whatever batch the row is in.

    Raises:
        ConfigError: When a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        faults = []
        if not self.temperature > 0:
            faults.append(f"temperature: got {self.temperature}; it must be above 0 (for greedy answers do not sample)")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p: got {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            faults.append(f"top_k: got {self.top_k}; it must be 0 (keep all) or more")
        if faults:
            raise ConfigError(faults)


def row_uniforms(seed: int, row: int, num_steps: int) -> torch.Tensor:
    """The row's uniform numbers in [0, 1), float64 [num_steps]; a longer answer extends a shorter one's numbers."""
    digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(num_steps, generator=generator, dtype=torch.float64)


def draw_tokens(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw one token per row by inverting the filtered distribution's cumulative sum.

    Filters apply in the usual order: temperature, top-k, top-p.

    Args:
        logits_BV: Next-token logits.
        uniforms_B: One number in [0, 1) per row.
        sampling: The filters.

    Returns:
        Token ids, int64 [B].
    """
    uniforms_B = uniforms_B.to(logits_BV.device)
    num_head = max(_HEAD_TOKENS, sampling.top_k + 1)
    if logits_BV.shape[1] <= num_head:
        return _draw_from_all(logits_BV, uniforms_B, sampling)
    tokens_B, is_certain_B = _draw_from_head(logits_BV, uniforms_B, sampling, num_head)
    if not is_certain_B.all():
        rest_N = (~is_certain_B).nonzero().squeeze(1)
        tokens_B[rest_N] = _draw_from_all(logits_BV[rest_N], uniforms_B[rest_N], sampling)
    return tokens_B


def _draw_from_all(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`draw_tokens` over the whole vocabulary, sorted; equal logits in the order of their ids."""
    sorted_BV, order_BV = (logits_BV.double() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        sorted_BV = sorted_BV[:, : sampling.top_k]
    probabilities_BV = _nucleus(sorted_BV.softmax(dim=-1), sampling.top_p)
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    places_B1 = _places(cumulative_BV, uniforms_B.unsqueeze(1) * cumulative_BV[:, -1:])
    last_B1 = (probabilities_BV > 0).sum(dim=-1, keepdim=True) - 1
    return order_BV.gather(1, torch.minimum(places_B1, last_B1)).squeeze(1)


def _draw_from_head(
    logits_BV: torch.Tensor, uniforms_B: torch.Tensor, sampling: Sampling, num_head: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `_draw_from_all` draws, from the likeliest tokens alone; and the rows for which that is certain."""
    order_BN = logits_BV.topk(num_head, dim=-1).indices.sort(dim=-1).values
    scaled_BV = logits_BV.double() / sampling.temperature
    sorted_BN, places_BN = scaled_BV.gather(1, order_BN).sort(dim=-1, descending=True, stable=True)
    order_BN = order_BN.gather(1, places_BN)
    # Which of equal logits are in the head is not certain at its end.
    num_certain_B1 = (sorted_BN > sorted_BN[:, -1:]).sum(dim=-1, keepdim=True)
    if sampling.top_k:
        total_B1 = sorted_BN[:, : sampling.top_k].logsumexp(dim=-1, keepdim=True)
        whole_BN = (sorted_BN - total_B1).exp()
        whole_BN[:, sampling.top_k :] = 0.0
        is_certain_B1 = num_certain_B1 >= sampling.top_k
    else:
        whole_BN = (sorted_BN - scaled_BV.logsumexp(dim=-1, keepdim=True)).exp()
        is_certain_B1 = torch.ones_like(num_certain_B1, dtype=torch.bool)
    probabilities_BN = _nucleus(whole_BN, sampling.top_p)
    cumulative_BN = probabilities_BN.cumsum(dim=-1)
    mass_B1 = cumulative_BN[:, -1:]
    if not sampling.top_k:
        # The head must hold the whole nucleus; without one, the mass is that of the whole vocabulary.
        is_certain_B1 = (mass_B1 >= sampling.top_p) if sampling.top_p < 1 else is_certain_B1
        mass_B1 = mass_B1 if sampling.top_p < 1 else torch.ones_like(mass_B1)
    places_B1 = _places(cumulative_BN, uniforms_B.unsqueeze(1) * mass_B1)
    is_certain_B1 = is_certain_B1 & (places_B1 < num_certain_B1)
    return order_BN.gather(1, places_B1.clamp(max=num_head - 1)).squeeze(1), is_certain_B1.squeeze(1)


def _nucleus(probabilities_BN: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities in falling order, those behind the nucleus 0."""
    if top_p >= 1:
        return probabilities_BN
    before_BN = probabilities_BN.cumsum(dim=-1) - probabilities_BN
    # The likeliest token has nothing before it and always stays.
    return probabilities_BN.masked_fill(before_BN >= top_p, 0.0)


def _places(cumulative_BN: torch.Tensor, targets_B1: torch.Tensor) -> torch.Tensor:
    # right=True: the first place whose cumulative sum exceeds the target, so tokens of probability 0 are never drawn.
    return torch.searchsorted(cumulative_BN, targets_B1, right=True)
