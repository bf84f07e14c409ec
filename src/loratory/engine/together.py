"""Several runs on one frozen base in one process, step by step; small steps are computed in one pass over the base.

Law (independence): each run is an ordinary run directory whose losses and checkpoints are those it would have alone: to
the bit in a step that is computed alone, to rounding in one that is computed in a common pass. It has its own adapter,
optimizer, schedule, rows and random generators; neighbours can fail or end without it noticing.
"""

import contextlib
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from loratory.config import RunConfig
from loratory.engine import random_state
from loratory.engine.joint_pass import compute_jointly
from loratory.engine.loop import Stops
from loratory.engine.ranks import Ranks
from loratory.engine.result import TrainingResult
from loratory.engine.shared_base import SharedBase, refuse_unshareable
from loratory.engine.signals import StopRequest
from loratory.engine.start import open_run
from loratory.engine.step import JoinableStep
from loratory.engine.training import TrainingSession, start_process
from loratory.errors import ConfigError, InterruptedRunError, LoratoryError


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How one of several runs ended: one of the two is set.

    Attributes:
        result: What it came to.
        error: Why it failed.
    """

    result: TrainingResult | None
    error: LoratoryError | None


def train_together(
    configs: Sequence[RunConfig],
    *,
    resume: bool = False,
    stop_after_step: int | None = None,
    trust_remote_code: bool = False,
    consoles: Sequence[Console] | None = None,
    on_end: Callable[[int, RunOutcome], None] | None = None,
) -> list[RunOutcome]:
    """Train runs that differ in their adapters, rates, seeds or rows, but not in their base.

    Args:
        configs: The runs, with names of their own.
        resume: Go on from each run's newest checkpoint; also one that was written alone.
        stop_after_step: As of `run_training`, for each of them.
        trust_remote_code: Allow code from the model's repository.
        consoles: Where each shows its progress; default: standard error, lines led by the run's name.
        on_end: Called with the index of a run as soon as it has ended.

    Returns:
        One outcome per run, in their order.

    Raises:
        ConfigError: They cannot share a base, or two have one run directory.
        InterruptedRunError: A signal came; every run is saved.
    """
    refuse_unshareable(list(configs))
    folders = [Path(config.run.output_dir) / config.run.name for config in configs]
    if len(set(folders)) < len(folders):
        raise ConfigError("run.name: two of the runs have the same run directory")
    ranks = start_process(configs[0].train)
    if ranks.num > 1:
        raise ConfigError("runs that share a base are trained by one process; start without torchrun")
    signals, shared = StopRequest(), SharedBase()
    stops = Stops(after_step=stop_after_step, signals=signals)
    probed = max(range(len(configs)), key=lambda i: configs[i].adapter.rank)
    turns = []
    for index, config in enumerate(configs):
        # The worst case of the largest adapter is that of them all.
        own = config if index == probed else _without_probe(config)
        console = consoles[index] if consoles is not None else _console(config.run.name)
        turns.append(_Turn(own, console, stops, shared, resume=resume, trust_remote_code=trust_remote_code))
    with signals:
        _take_turns(turns, ranks, on_end)
    outcomes = [turn.outcome for turn in turns]
    interrupted = [o.error for o in outcomes if o is not None and isinstance(o.error, InterruptedRunError)]
    if interrupted:
        raise InterruptedRunError("\n".join(str(error) for error in interrupted), signals.signal_number or 15)
    return [outcome for outcome in outcomes if outcome is not None]


def _take_turns(turns: "Sequence[_Turn]", ranks: Ranks, on_end: Callable[[int, RunOutcome], None] | None) -> None:
    running = list(enumerate(turns))
    try:
        while running:
            waiting = [turn.joinable() for _, turn in running]
            compute_jointly([step for step in waiting if step is not None])
            for index, turn in list(running):
                turn.go(ranks)
                if turn.outcome is not None:
                    running.remove((index, turn))
                    if on_end is not None:
                        on_end(index, turn.outcome)
    finally:
        for _, turn in running:
            turn.close()


class _Turn:
    """One of the runs: its session, and its random generators while the others have their turn."""

    def __init__(
        self,
        config: RunConfig,
        console: Console,
        stops: Stops,
        shared: SharedBase,
        *,
        resume: bool,
        trust_remote_code: bool,
    ) -> None:
        self._config = config
        self._console = console
        self._stops = stops
        self._shared = shared
        self._resume = resume
        self._trust_remote_code = trust_remote_code
        self._stack = contextlib.ExitStack()
        self._session: TrainingSession | None = None
        self._steps: Generator[None, None, TrainingResult] | None = None
        self._generators: random_state.RandomState | None = None
        self.outcome: RunOutcome | None = None

    def joinable(self) -> JoinableStep | None:
        """The next step, if it may be computed together with the others'."""
        return None if self._session is None else self._session.joinable()

    def go(self, ranks: Ranks) -> None:
        """Do one step; the first turn opens the run and sets it up before."""
        if self._generators is not None:
            random_state.restore(self._generators)
        try:
            if self._steps is None:
                session = self._open(ranks)
                if self.outcome is not None:
                    return
                self._session = session
                self._steps = session.steps(resume=self._resume, trust_remote_code=self._trust_remote_code)
            next(self._steps)
            self._generators = random_state.capture()
        except StopIteration as end:
            self._end(RunOutcome(end.value, None))
        except LoratoryError as error:
            self._end(RunOutcome(None, error))

    def close(self) -> None:
        """Give up a run that has not ended, its run directory included."""
        if self._steps is not None:
            self._steps.close()
        self._stack.close()

    def _open(self, ranks: Ranks) -> TrainingSession:
        path = Path(self._config.run.output_dir) / self._config.run.name
        run = open_run(path, resume=self._resume, overwrite=False, ranks=ranks, stack=self._stack)
        session = TrainingSession(
            self._config, run, ranks, self._console, self._stack, stops=self._stops, shared=self._shared
        )
        if self._resume and run.is_finished:
            self._end(RunOutcome(session.finished_result(), None))
        return session

    def _end(self, outcome: RunOutcome) -> None:
        self._steps = self._session = None
        error = outcome.error
        self._stack.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        self.outcome = outcome


def _without_probe(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"probe": False})})


def _console(name: str) -> Console:
    return Console(file=cast(TextIO, NamedLines(name, sys.stderr)), force_terminal=False, width=10_000)


class NamedLines:
    """A text stream that puts a name in front of each line."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> int:
        """Write whole lines, as rich does."""
        for line in text.splitlines():
            if line.strip():
                self._stream.write(f"{self._name}: {line}\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind."""
        self._stream.flush()
