"""Learning rate over the run: a pure function of the step, so that there is no scheduler state to save."""

import math
from dataclasses import dataclass

from loratory.config import TrainConfig
from loratory.config.train import Schedule


@dataclass(frozen=True, slots=True)
class RateSchedule:
    """Factor on the peak rate.

    Attributes:
        shape: linear or cosine decay towards 0 at `total_steps`, or constant.
        total_steps: Optimizer steps of the run.
        warmup_steps: Steps with rising rate: step k (0-based) of w uses (k + 1) / w, so no step is wasted on rate 0.
    """

    shape: Schedule
    total_steps: int
    warmup_steps: int

    def factor(self, step: int) -> float:
        """Factor for 0-based step `step`, in 0..1."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        if self.shape == "linear":
            return max(0.0, 1.0 - progress)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def make_schedule(section: TrainConfig, total_steps: int) -> RateSchedule:
    """Schedule of a run; `warmup_steps` takes precedence over `warmup_ratio` (rounded up)."""
    warmup = section.warmup_steps
    if warmup is None:
        warmup = math.ceil(section.warmup_ratio * total_steps)
    return RateSchedule(section.schedule, total_steps, warmup)
