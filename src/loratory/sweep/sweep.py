"""`run_sweep`: a study from its file to its table. It hands out runs; training, scoring and storage are elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from loratory.config import RunConfig
from loratory.engine.shared_base import refuse_unshareable
from loratory.errors import ConfigError, RunError, suggest
from loratory.evaluation.answer_metrics.registry import metric_names
from loratory.sweep.candidates import Candidates, describe, make_candidates, score_source
from loratory.sweep.child import Order, is_done, loss_at, read_result
from loratory.sweep.halving import promoted
from loratory.sweep.processes import Processes
from loratory.sweep.space import corners
from loratory.sweep.storage import StudyStore
from loratory.sweep.study_file import LOSS_METRICS, read_study_file
from loratory.sweep.table import StudyTable, study_table

if TYPE_CHECKING:
    import optuna

Note = Callable[[str], None]


def run_sweep(path: Path, *, resume: bool = False, note: Note) -> StudyTable:
    """Run a study to its end.

    Args:
        path: The study file.
        resume: Go on with a study, whatever stopped it, or join one that other workers are at.
        note: Shows one line.

    Raises:
        ConfigError: The study file, its base, or any trial's configuration is wrong; nothing has been trained then.
        RunError, IntegrityError: See `StudyStore`.
        InterruptedRunError: A signal came.
        MissingExtraError: Optuna is not installed.
    """
    found = _read(path)
    store = StudyStore(found, resume=resume)
    work = _Work(found, store, note)
    work.controls()
    if found.rungs:
        work.halve()
    else:
        work.all()
    return study_table(found, store.trials())


def show_sweep(path: Path) -> StudyTable:
    """The table of a study as it stands; trains nothing.

    Raises:
        ConfigError, RunError, IntegrityError, MissingExtraError: As `run_sweep`.
    """
    found = _read(path)
    return study_table(found, StudyStore(found, resume=True).trials())


def _read(path: Path) -> Candidates:
    file = read_study_file(path)
    metric = file.section.metric
    if metric not in (*LOSS_METRICS, *metric_names()):
        names = [*LOSS_METRICS, *metric_names()]
        raise ConfigError(f"sweep.metric: '{metric}' is unknown.{suggest(metric, names)} Allowed: {', '.join(names)}.")
    found = make_candidates(file)
    if file.section.runs_at_once > 1:
        listed = found.listed or corners(file.axes)
        refuse_unshareable([config for number, params in enumerate(listed) for config in found.configs(number, params)])
    return found


class _Work:
    """The trials of one call."""

    def __init__(self, found: Candidates, store: StudyStore, note: Note) -> None:
        self._found = found
        self._store = store
        self._note = note
        self._section = found.file.section
        self._results = found.folder / "results"
        self._processes = Processes(self._section.parallel)
        self._open: dict[int, tuple[optuna.Trial, list[RunConfig]]] = {}

    def controls(self) -> None:
        """Train the base with other seeds."""
        pending = self._pending(self._found.control_configs(), None)
        self._processes.run(self._orders(pending, None), on_end=self._tell)

    def all(self) -> None:
        """Train every trial to its end."""
        self._processes.run(self._orders_of_trials(), on_end=self._settle_ended)
        self._settle_ended()

    def halve(self) -> None:
        """Train all trials a little, the better ones further."""
        trials = {trial.number: trial for trial in self._store.take(len(self._found.listed))}
        known = self._store.trials()
        others = [each.number for each in known if each.state == "running" and each.number not in trials]
        if others:
            raise RunError(
                f"trials {others}: another process is at them; halving is led by one process, see sweep.parallel"
            )
        runs = {each.number: self._found.configs(each.number, each.params) for each in known}
        alive = list(runs)
        for step in self._found.rungs:
            is_last = step == self._found.rungs[-1]
            stop = None if is_last else step
            pending = self._pending([config for number in alive for config in runs[number]], stop)
            self._note(f"up to step {step}: {len(alive)} trials, {len(pending)} runs to train")
            self._processes.run(self._orders(pending, stop), on_end=self._tell)
            if is_last:
                for number in alive:
                    if number in trials:
                        self._settle(trials[number], runs[number])
                break
            losses = self._losses(alive, runs, trials, step)
            alive = promoted(losses, self._section.halving.factor if self._section.halving else 1) if losses else []
            ranks = {number: rank for rank, number in enumerate(sorted(losses, key=lambda n: (losses[n], n)), start=1)}
            for number in losses.keys() - set(alive):
                if number in trials:
                    place = f"place {ranks[number]} of {len(losses)}"
                    self._store.prune(trials[number], f"step {step}: eval_loss {losses[number]:.4f}, {place}")

    def _losses(
        self, alive: Sequence[int], runs: dict[int, list[RunConfig]], trials: "dict[int, optuna.Trial]", step: int
    ) -> dict[int, float]:
        """Mean validation loss at a step of each trial that has come there; the others have failed."""
        losses = {}
        for number in alive:
            reasons = self._failures(runs[number])
            found = [loss_at(self._found.folder / config.run.name, step) for config in runs[number]]
            values = [value for value in found if value is not None]
            if reasons or len(values) < len(found):
                if number in trials:
                    self._store.fail(trials[number], reasons or f"no validation loss at step {step}")
                continue
            losses[number] = mean(values)
            if number in trials:
                self._store.report(trials[number], losses[number], step)
        return losses

    def _orders_of_trials(self) -> Iterator[Order]:
        at_once = max(1, self._section.runs_at_once // len(self._found.seeds))
        while taken := self._store.take(at_once):
            configs = []
            for trial in taken:
                params = self._store.params(trial)
                self._note(f"trial {trial.number}: {describe(params)}")
                self._open[trial.number] = (trial, self._found.configs(trial.number, params))
                configs += self._open[trial.number][1]
            yield from self._orders(self._pending(configs, None), None)
            self._settle_ended()

    def _orders(self, configs: Sequence[RunConfig], stop: int | None) -> Iterator[Order]:
        for start in range(0, len(configs), self._section.runs_at_once):
            yield Order(
                configs=tuple(configs[start : start + self._section.runs_at_once]),
                results=self._results,
                stop_after_step=stop,
                metric=self._section.metric,
                score_source=score_source(self._found.base_config(), self._found.file),
            )

    def _pending(self, configs: Sequence[RunConfig], stop: int | None) -> list[RunConfig]:
        return [config for config in configs if not is_done(read_result(self._results, config.run.name), stop)]

    def _settle_ended(self, order: Order | None = None) -> None:
        if order is not None:
            self._tell(order)
        for number, (trial, configs) in list(self._open.items()):
            if not self._pending(configs, None):
                del self._open[number]
                self._settle(trial, configs)

    def _settle(self, trial: "optuna.Trial", configs: Sequence[RunConfig]) -> None:
        reasons = self._failures(configs)
        results = [read_result(self._results, config.run.name) for config in configs]
        values = [result.value for result in results if result is not None and result.value is not None]
        if reasons or len(values) < len(configs):
            self._store.fail(trial, reasons or "a run has no value")
        else:
            self._store.complete(trial, mean(values))

    def _failures(self, configs: Sequence[RunConfig]) -> str:
        found = ((config.run.name, read_result(self._results, config.run.name)) for config in configs)
        return "\n".join(f"{name}: {result.reason}" for name, result in found if result and result.state == "failed")

    def _tell(self, order: Order) -> None:
        for config in order.configs:
            result = read_result(self._results, config.run.name)
            if result is None:
                continue
            value = "" if result.value is None else f", {self._section.metric} {result.value:.4f}"
            reason = f": {result.reason}" if result.reason else ""
            self._note(f"{config.run.name}: {result.state} at step {result.step}{value}{reason}")
