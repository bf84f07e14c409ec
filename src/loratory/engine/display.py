"""What the user sees while a run goes: a progress bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loratory.run.metrics import MetricValue

_PLAIN_INTERVAL_S = 10.0
# What is worth a place in one short line, of whatever objective; the rest is in metrics.jsonl.
_SHOWN = (
    ("loss", "loss {:.4f}"),
    ("accuracy", "accuracy {:.2f}"),
    ("reward_accuracy", "accuracy {:.2f}"),
    ("reward_margin", "margin {:z.3f}"),
    ("reward", "reward {:z.3f}"),
    ("kl", "KL {:z.3f}"),
    ("kl_per_answer", "KL {:z.3f} per answer"),
    ("macro_f1", "macro F1 {:.2f}"),
    ("groups_without_variance", "{:.0%} of groups without a difference"),
)


class Display(Protocol):
    """Shows where a run stands."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Show a step and its values."""
        ...

    def note(self, text: str) -> None:
        """Show a line that stays."""
        ...


def make_display(console: Console, *, total_steps: int, first_step: int, is_main: bool) -> Display:
    """A bar on a terminal, plain lines elsewhere, nothing on other ranks than the main one."""
    if not is_main:
        return SilentDisplay()
    if console.is_terminal:
        return BarDisplay(console, total_steps=total_steps, first_step=first_step)
    return PlainDisplay(console, total_steps=total_steps, first_step=first_step)


class SilentDisplay:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class PlainDisplay(SilentDisplay):
    """One line at the first step, about every ten seconds, and at the last step.

    A number that comes only now and then, as the reward of a rollout does, is shown until the next one comes.
    """

    def __init__(self, console: Console, *, total_steps: int, first_step: int) -> None:
        self._console = console
        self._total_steps = total_steps
        self._clock = RemainingTime(total_steps, first_step)
        self._last_line_s = float("-inf")
        self._latest: dict[str, MetricValue] = {}

    def update(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Print a line when it is time."""
        self._latest |= values
        now = time.monotonic()
        left_s = self._clock.left_s(step)
        if now - self._last_line_s >= _PLAIN_INTERVAL_S or step == self._total_steps:
            self._last_line_s = now
            self.note(f"step {step}/{self._total_steps}  {describe(self._latest)}  {duration(left_s)} left")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class BarDisplay(SilentDisplay):
    """A rich progress bar."""

    def __init__(self, console: Console, *, total_steps: int, first_step: int) -> None:
        self._clock = RemainingTime(total_steps, first_step)
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            transient=False,
        )
        self._task: TaskID = self._bar.add_task("train", total=total_steps, completed=first_step, values="", left="?")
        self._latest: dict[str, MetricValue] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, values: Mapping[str, MetricValue]) -> None:
        """Move the bar."""
        self._latest |= values
        left = duration(self._clock.left_s(step))
        self._bar.update(self._task, completed=step, values=describe(self._latest), left=left)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


class RemainingTime:
    """Time left, from the pace since this process began."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self._total_steps = total_steps
        self._first_step = first_step
        self._start_s = time.monotonic()

    def left_s(self, step: int) -> float:
        """Seconds until the last step."""
        done = step - self._first_step
        return (time.monotonic() - self._start_s) / done * (self._total_steps - step) if done > 0 else float("nan")


def describe(values: Mapping[str, MetricValue]) -> str:
    """One short line of the values that matter while waiting."""
    parts = _shown(values, "")
    if "tokens_per_s" in values:
        parts.append(f"{values['tokens_per_s']:,.0f} tokens/s")
    return "  ".join([*parts, f"{memory_bytes() / 2**30:.2f} GiB"])


def describe_evaluation(values: Mapping[str, MetricValue]) -> str:
    """The same of an evaluation. Where the loss is but minus the reward, the reward speaks for both."""
    is_reward = values["eval_loss"] == -float(values.get("eval_reward", float("nan")))
    parts = _shown({name: value for name, value in values.items() if name != "eval_loss" or not is_reward}, "eval_")
    return f"evaluation {'  '.join(parts)}"


def _shown(values: Mapping[str, MetricValue], prefix: str) -> list[str]:
    return [text.format(values[prefix + name]) for name, text in _SHOWN if prefix + name in values]


def memory_bytes() -> int:
    """Memory in use: peak CUDA allocation where there is a GPU, else resident set of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    if seconds != seconds:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
