"""The value head: the expected reward of what is to come, read off the policy's own hidden states."""

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel


class ValueHead(nn.Module):
    """One linear layer from a hidden state behind the final norm to a value, in fp32 whatever the model's dtype.

    It begins near zero, not at it: from zero no gradient would reach the model below.

    Args:
        width: D, width of the hidden states.
        seed: Of its initial weights.
    """

    def __init__(self, width: int, *, seed: int) -> None:
        super().__init__()
        self.summary = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.summary.weight.copy_(torch.randn(1, width, generator=generator) * 0.1 / width**0.5)
            self.summary.bias.zero_()

    def forward(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Value of each state, [P]."""
        return self.summary(hidden_PD.to(self.summary.weight.dtype)).squeeze(-1)  # type: ignore[no-any-return]


def value_head_for(model: PreTrainedModel | PeftModel, *, seed: int) -> ValueHead:
    """A fresh head of the model's width on the model's device."""
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    return ValueHead(width, seed=seed).to(model.device)
