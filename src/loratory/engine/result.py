"""What a run came to."""

from dataclasses import dataclass
from pathlib import Path

from loratory.adapter.trainable import TrainableReport


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        run_dir: The run directory.
        final_model: The published adapter or model.
        step: Optimizer steps done.
        loss: Training loss of the last logged steps, in nats per supervised token for SFT.
        best_step: Step whose weights are in `final_model` if a best one was kept, by evaluation loss.
        best_loss: That loss.
        report: What was trained; None when nothing was, because the run was finished already.
        was_finished: The run had been finished before.
        is_paused: The run stands at the step where it was to pause; `final_model` is not there yet.
    """

    run_dir: Path
    final_model: Path
    step: int
    loss: float | None
    best_step: int | None
    best_loss: float | None
    report: TrainableReport | None
    was_finished: bool = False
    is_paused: bool = False
