"""The clipped surrogate of policy optimisation (Schulman et al. 2017, eq. 7) and the clipped value loss."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """The policy's loss, item by item.

    Attributes:
        loss: Of each item (a token, or a whole answer), to be minimised; differentiable.
        is_clipped: bool, items whose gradient the clipping has set to 0.
    """

    loss: torch.Tensor
    is_clipped: torch.Tensor


def clipped_surrogate(
    log_ratio: torch.Tensor, advantages: torch.Tensor, *, low: float, high: float | None = None
) -> Surrogate:
    """`-min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)` of each item.

    Args:
        log_ratio: Log-probability now less that of the policy that drew the item; differentiable.
        advantages: Of each item.
        low: How far the ratio may fall below 1.
        high: How far it may rise above 1; None: as `low`.
    """
    high = low if high is None else high
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    is_clipped = ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    return Surrogate(loss, is_clipped)


def clipped_value_loss(
    values: torch.Tensor, returns: torch.Tensor, *, old_values: torch.Tensor, clip: float | None
) -> torch.Tensor:
    """Half the squared error of each value; with `clip`, or that of the value held near its old one if it is larger."""
    errors = (values - returns).square()
    if clip is not None:
        held = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (held - returns).square())
    return errors / 2
