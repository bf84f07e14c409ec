"""What a process of a sweep does: train its runs, score them, and leave one result file for each."""

import json
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from rich.console import Console

from loratory.config import RunConfig
from loratory.engine.together import RunOutcome, train_together
from loratory.engine.training import run_training
from loratory.errors import InterruptedRunError, LoratoryError, NumericsError
from loratory.run import read_metrics, write_text
from loratory.sweep.scoring import score_run

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Order:
    """What to train.

    Attributes:
        configs: The runs; several share one base in the process.
        results: Folder of the result files and logs.
        stop_after_step: Where the runs pause; None: at their end.
        metric: What finished runs are judged by.
        score_source: Rows for text metrics.
    """

    configs: tuple[RunConfig, ...]
    results: Path
    stop_after_step: int | None
    metric: str
    score_source: str | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        state: complete, paused or failed.
        value: The metric; of a paused run none.
        step: Optimizer steps done.
        reason: Why it failed.
        seconds: Time of the process until the run ended, summed over its processes; runs of one process share it.
    """

    state: str
    value: float | None
    step: int
    reason: str
    seconds: float


def work(order: Order) -> None:
    """Entry of the process."""
    os.setpgrp()  # Ctrl-C is for the parent, which asks the children to stop
    log_everything(log_of(order.results, order.configs[0].run.name))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        _train(order)
    except InterruptedRunError:
        os._exit(INTERRUPTED)


def log_of(results: Path, name: str) -> Path:
    """Where a run's progress is written, and what its process says on standard error."""
    return results / f"{name}.log"


def log_everything(path: Path) -> None:
    """Send standard error to a file: what libraries say, and the end of a process that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _end_with_parent() -> None:
    """A study that was killed leaves no process behind; its runs are resumed from their checkpoints."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(INTERRUPTED)


def _train(order: Order) -> None:
    start_s = time.monotonic()
    consoles = []
    for config in order.configs:
        file = log_of(order.results, config.run.name).open("a", encoding="utf-8")
        consoles.append(Console(file=file, force_terminal=False, width=200))
    if len(order.configs) > 1:
        outcomes = train_together(order.configs, resume=True, stop_after_step=order.stop_after_step, consoles=consoles)
        share_s = (time.monotonic() - start_s) / len(order.configs)
        for config, outcome in zip(order.configs, outcomes, strict=True):
            _leave(order, config, outcome, share_s)
        return
    try:
        outcome = RunOutcome(
            run_training(order.configs[0], resume=True, stop_after_step=order.stop_after_step, console=consoles[0]),
            None,
        )
    except InterruptedRunError:
        raise
    except LoratoryError as error:
        outcome = RunOutcome(None, error)
    _leave(order, order.configs[0], outcome, time.monotonic() - start_s)


def _leave(order: Order, config: RunConfig, outcome: RunOutcome, seconds: float) -> None:
    start_s = time.monotonic()
    before = read_result(order.results, config.run.name)
    seconds += before.seconds if before is not None else 0.0
    if outcome.result is None:
        write_result(order.results, config.run.name, RunResult("failed", None, 0, str(outcome.error), seconds))
        return
    if outcome.result.is_paused:
        write_result(order.results, config.run.name, RunResult("paused", None, outcome.result.step, "", seconds))
        return
    try:
        value = _value(order, config, outcome.result.run_dir)
    except LoratoryError as error:
        result = RunResult("failed", None, outcome.result.step, f"not scored: {error}", seconds)
    else:
        result = RunResult("complete", value, outcome.result.step, "", seconds + time.monotonic() - start_s)
    write_result(order.results, config.run.name, result)


def _value(order: Order, config: RunConfig, run_dir: Path) -> float:
    if order.metric in ("eval_loss", "loss"):
        found = [line[order.metric] for line in read_metrics(run_dir / "metrics.jsonl") if order.metric in line]
        values = [float(value) for value in found]
        # The final model is the best one where one is kept, and the value is that of the model that is left.
        value = min(values) if order.metric == "eval_loss" and config.train.keep_best else values[-1]
    else:
        assert order.score_source is not None
        value = score_run(run_dir, config, order.score_source, order.metric)
    if not math.isfinite(value):
        raise NumericsError(f"{order.metric} is {value}")
    return value


def loss_at(run_dir: Path, step: int) -> float | None:
    """Validation loss of a run at a step, if it was evaluated there."""
    path = run_dir / "metrics.jsonl"
    lines = read_metrics(path) if path.is_file() else []
    return next((float(line["eval_loss"]) for line in lines if line.get("step") == step and "eval_loss" in line), None)


def read_result(folder: Path, name: str) -> RunResult | None:
    """The result of a run, if it has one."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return RunResult(**raw)


def write_result(folder: Path, name: str, result: RunResult) -> None:
    """Write a result; the file appears whole or not at all."""
    write_text(folder / f"{name}.json", json.dumps(asdict(result), indent=2) + "\n")


def is_done(result: RunResult | None, stop_after_step: int | None) -> bool:
    """Whether there is nothing to do for a run up to this step."""
    if result is None:
        return False
    reached = stop_after_step is not None and result.step >= stop_after_step
    return result.state in ("complete", "failed") or reached


def names_of(configs: Sequence[RunConfig]) -> str:
    """The runs by name."""
    return ", ".join(config.run.name for config in configs)
