"""Choosing the next token: the likeliest one, or a draw that depends on (seed, row, step) and on nothing else."""

import hashlib
from dataclasses import dataclass

import torch

from loratory.errors import ConfigError


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
    scaled_BV = logits_BV.double() / sampling.temperature
    sorted_BV, order_BV = scaled_BV.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        sorted_BV = sorted_BV[:, : sampling.top_k]
    probabilities_BV = sorted_BV.softmax(dim=-1)
    if sampling.top_p < 1:
        before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
        # The likeliest token has nothing before it and always stays.
        probabilities_BV = probabilities_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    targets_B1 = uniforms_B.to(cumulative_BV.device).unsqueeze(1) * cumulative_BV[:, -1:]
    # right=True: the first place whose cumulative sum exceeds the target, so tokens of probability 0 are never drawn.
    places_B1 = torch.searchsorted(cumulative_BV, targets_B1, right=True)
    last_B1 = (probabilities_BV > 0).sum(dim=-1, keepdim=True) - 1
    return order_BV.gather(1, torch.minimum(places_B1, last_B1)).squeeze(1)
