"""The meter as a callback of transformers' Trainer and what derives from it."""

from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.measure import Meter


class MeterCallback(TrainerCallback):
    """Starts the meter before the first step and ticks it after each."""

    def __init__(self, meter: Meter, model: torch.nn.Module) -> None:
        self._meter = meter
        self._model = model

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is prepared, nothing has run."""
        self._meter.begin(self._model.parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An optimizer step is done."""
        self._meter.end_step()
