"""The only training loop. It knows steps, evaluations and saves; it never branches on objective or method."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.config import TrainConfig
from loratory.engine import random_state
from loratory.engine.display import Display, describe_evaluation, memory_bytes
from loratory.engine.evaluate import EvaluationResult
from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.progress import Progress, Window
from loratory.engine.ranks import Ranks
from loratory.engine.row_source import RowSource
from loratory.engine.saver import Saver
from loratory.engine.schedule import RateSchedule
from loratory.engine.signals import StopRequest
from loratory.engine.step import JoinableStep, StepResult, TrainStep
from loratory.engine.trackers import Tracker
from loratory.errors import InterruptedRunError
from loratory.run.metrics import MetricsLog, MetricValue


@dataclass(frozen=True, slots=True, eq=False)
class LoopParts:
    """What the loop drives.

    Attributes:
        source: Rows of each step.
        schedule: Rate of each step.
        step: One optimizer step.
        optimizer: Whose rate the schedule sets.
        evaluator: None without validation rows.
        saver: Commits checkpoints.
        write_checkpoint: Fills a checkpoint's stage: (folder, progress, generators of each rank).
        metrics: metrics.jsonl; None on other ranks than the main one.
        trackers: Experiment trackers; empty on other ranks.
        display: The user's view.
        ranks: The processes.
        summary: What is logged of summed metrics.
    """

    source: RowSource
    schedule: RateSchedule
    step: TrainStep
    optimizer: NamedOptimizer
    evaluator: Callable[[Callable[[], bool]], EvaluationResult | None] | None
    saver: Saver
    write_checkpoint: Callable[[Path, Progress, Sequence[random_state.RandomState]], None]
    metrics: MetricsLog | None
    trackers: Sequence[Tracker]
    display: Display
    ranks: Ranks
    summary: Callable[[Mapping[str, tuple[float, float]]], dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Stops:
    """What ends a loop before its last step.

    Attributes:
        after_step: Pause when this many steps are done: the schedule stays that of the whole run, so that going on
            later gives what an unbroken run gives.
        signals: A request that several loops of one process share, entered by whoever drives them.
    """

    after_step: int | None = None
    signals: StopRequest | None = None


@dataclass(slots=True)
class Pace:
    """How long steps take, without the first one of a process, which warms up.

    Attributes:
        num_steps: Steps so far.
        seconds: Of all but the first.
    """

    num_steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one step."""
        self.seconds += seconds if self.num_steps else 0.0
        self.num_steps += 1

    @property
    def num_counted(self) -> int:
        """Steps that `mean_s` is the mean of."""
        return max(0, self.num_steps - 1)

    @property
    def mean_s(self) -> float | None:
        """Mean time of a step; None before the second."""
        return self.seconds / self.num_counted if self.num_counted else None


class TrainingLoop:
    """Runs from where `progress` stands to the last step.

    Attributes:
        progress: Where the run stands; changed in place.
        pace: Of the steps of this process.
    """

    def __init__(self, parts: LoopParts, section: TrainConfig, progress: Progress, stops: Stops | None = None) -> None:
        stops = stops or Stops()
        self._parts = parts
        self._section = section
        self.progress = progress
        self.pace = Pace()
        self._total_steps = parts.schedule.total_steps
        self._last_step = min(self._total_steps, stops.after_step or self._total_steps)
        self._eval_steps = section.eval_steps or max(1, round(parts.source.steps_per_epoch))
        self._save_steps = section.save_steps or max(1, round(parts.source.steps_per_epoch))
        self._signals = stops.signals or StopRequest()
        self._owns_signals = stops.signals is None

    def steps(self) -> Generator[None]:
        """Train to the end, or to the step where the run pauses, which then has a checkpoint; yields after each step.

        Raises:
            InterruptedRunError: A signal came; the last step is saved.
            NumericsError, AdapterError, ResourceError: See `TrainStep` and `Saver`.
        """
        with self._signals if self._owns_signals else contextlib.nullcontext(), self._parts.display:
            if self.progress.is_evaluation_pending:
                self._evaluate_and_save()
            while not self._is_over:
                self._do_step()
                self._evaluate_and_save()
                yield

    def joinable(self) -> JoinableStep | None:
        """The next step, if there is one that may be computed in a pass that several models share."""
        if self._is_over or self.progress.is_evaluation_pending:
            return None
        return self._parts.step.joinable(self._parts.source.rows(self.progress.step))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._total_steps

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end, not only to where it pauses."""
        return self.progress.step >= self._total_steps or self.progress.is_stopped_early

    @property
    def _is_over(self) -> bool:
        return self.progress.step >= self._last_step or self.progress.is_stopped_early

    def _do_step(self) -> None:
        parts, progress = self._parts, self.progress
        start_s = time.perf_counter()
        factor = parts.schedule.factor(progress.step)
        parts.optimizer.set_rate(factor)
        rows = parts.source.rows(progress.step)
        result = parts.step(rows, progress.step)
        seconds = time.perf_counter() - start_s + result.seconds_before
        progress.step += 1
        progress.num_tokens += result.num_tokens
        progress.train_seconds += seconds
        self.pace.add(seconds)
        progress.window.add(result, seconds)
        progress.window.add_metrics(parts.source.take_metrics())
        progress.is_evaluation_pending = parts.evaluator is not None and self._is_due(self._eval_steps)
        if self._is_due(self._section.logging_steps):
            self._log_window(result, self._section.learning_rate * factor)

    def _is_due(self, interval: int) -> bool:
        return self.progress.step % interval == 0 or self.progress.step >= self._total_steps

    def _evaluate_and_save(self) -> None:
        is_better = self.progress.is_evaluation_pending and self._evaluate()
        is_stopping = self._is_stopping()
        if is_better or is_stopping or self._is_over or self._is_due(self._save_steps):
            self._save(is_better=is_better, is_last=is_stopping or self._is_over)
        if is_stopping and (self.progress.is_evaluation_pending or not self._is_over):
            self._interrupt()

    def _evaluate(self) -> bool:
        """Evaluate; whether this is the best so far. Stays pending when a signal stopped it."""
        progress = self.progress
        assert self._parts.evaluator is not None
        start_s = time.perf_counter()
        result = self._parts.evaluator(lambda: self._signals.is_set)
        if result is None:
            return False
        progress.is_evaluation_pending = False
        values: dict[str, MetricValue] = {
            "step": progress.step,
            "epoch": self._epoch(),
            "eval_loss": result.loss,
            **{f"eval_{name}": value for name, value in result.metrics.items()},
            "eval_seconds": round(time.perf_counter() - start_s, 3),
        }
        self._log(values)
        self._parts.display.note(f"step {progress.step}: {describe_evaluation(values)}")
        if progress.best_loss is None or result.loss < progress.best_loss:
            progress.best_loss = result.loss
            progress.evaluations_without_gain = 0
            return True
        progress.evaluations_without_gain += 1
        patience = self._section.early_stopping_patience
        if patience is not None and progress.evaluations_without_gain >= patience:
            progress.is_stopped_early = True
            self._parts.display.note(
                f"step {progress.step}: no gain in {patience} evaluations since step {progress.best_step}; stopping"
            )
        return False

    def _save(self, *, is_better: bool, is_last: bool) -> None:
        parts, progress = self._parts, self.progress
        previous_best = progress.best_step
        if is_better:
            progress.best_step = progress.step
        if parts.metrics is not None:
            parts.metrics.sync()
            progress.metrics_lines = parts.metrics.num_lines
        progress.loss_scale = parts.step.scale.value
        progress.loss_scale_good_steps = parts.step.scale.good_steps
        generators = parts.ranks.gather(random_state.capture())
        stands = parts.saver.save(
            progress.step,
            lambda folder: parts.write_checkpoint(folder, progress, generators),
            protect=progress.best_step if self._section.keep_best else None,
            is_last=is_last,
        )
        if is_better and not stands:
            progress.best_step = previous_best

    def _is_stopping(self) -> bool:
        # Ranks must agree on the step at which they stop; signals may reach them at different moments.
        return self._parts.ranks.any(self._signals.is_set)

    def _interrupt(self) -> None:
        number = self._signals.signal_number or 15
        raise InterruptedRunError(
            f"stopped by signal {number} after step {self.progress.step} of {self._total_steps}; "
            "everything is saved. Go on with --resume.",
            number,
        )

    def _epoch(self) -> float:
        return round(self.progress.step / self._parts.source.steps_per_epoch, 4)

    def _log_window(self, result: StepResult, learning_rate: float) -> None:
        parts, progress, window = self._parts, self.progress, self.progress.window
        values: dict[str, MetricValue] = {"step": progress.step, "epoch": self._epoch()}
        if window.count:
            progress.last_loss = window.loss_sum / window.count
            values["loss"] = progress.last_loss
        values |= {
            **parts.summary(window.metrics),
            "learning_rate": learning_rate,
            "supervised_tokens": window.count,
            "tokens_per_s": round(window.num_tokens / max(window.seconds, 1e-9), 1),
            "memory_mib": round(memory_bytes() / 2**20, 1),
        }
        if result.is_skipped or window.num_skipped:
            values["skipped_steps"] = window.num_skipped
        if not result.is_skipped:
            values["grad_norm"] = result.grad_norm
        progress.window = Window()
        self._log(values)
        self._parts.display.update(progress.step, values)

    def _log(self, values: Mapping[str, MetricValue]) -> None:
        if self._parts.metrics is not None:
            self._parts.metrics.write(values)
        for tracker in self._parts.trackers:
            tracker.log(self.progress.step, values)
