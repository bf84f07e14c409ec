"""Train mode of a model, and its end."""

import contextlib
from collections.abc import Iterator

from peft import PeftModel
from transformers import PreTrainedModel

from loratory.config import TrainConfig


@contextlib.contextmanager
def training_mode(model: PeftModel | PreTrainedModel, section: TrainConfig) -> Iterator[None]:
    """Train mode and, if asked for, gradient checkpointing; both are taken back at the end."""
    model.train()
    # Newer transformers rename this from gradient_ to activation_checkpointing.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if section.gradient_checkpointing:
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
    try:
        yield
    finally:
        if section.gradient_checkpointing:
            getattr(model, f"{kind}_checkpointing_disable")()
        model.eval()
