"""`run_sweep`: a study from its file to its table. It hands out runs; training, scoring and storage are elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from loratory.config import RunConfig
from loratory.errors import ConfigError, RunError, suggest
from loratory.evaluation.answer_metrics.registry import metric_names
from loratory.sweep.candidates import Candidates, describe, read_candidates, refuse_invalid, score_source
from loratory.sweep.child import Order, is_done, loss_at, read_result
from loratory.sweep.halving import promoted
from loratory.sweep.processes import Processes
from loratory.sweep.storage import StudyStore, read_trials
from loratory.sweep.study_file import LOSS_METRICS, read_study_file
from loratory.sweep.table import StudyTable, study_table, write_table

Note = Callable[[str], None]
_CONTROL = "control"


def run_sweep(path: Path, overrides: Sequence[str] = (), *, resume: bool = False, note: Note) -> StudyTable:
    """Run a study to its end.

    Args:
        path: The study file.
        overrides: See `read_study_file`.
        resume: Go on with a study, whatever stopped it, or join one that other workers are at.
        note: Shows one line.

    Raises:
        ConfigError: The study file, its base, or any trial's configuration is wrong; nothing has been trained then.
        DataError: Training data are missing.
        RunError, IntegrityError: See `StudyStore`.
        InterruptedRunError: A signal came.
        MissingExtraError: Optuna is not installed.
    """
    found = _read(path, overrides)
    refuse_invalid(found)
    store = StudyStore(found, resume=resume)
    work = _Work(found, store, note)
    work.controls()
    if found.rungs:
        work.halve()
    else:
        work.all()
    table = study_table(found, store.trials())
    write_table(table)
    return table


def show_sweep(path: Path, overrides: Sequence[str] = (), *, note: Note) -> StudyTable:
    """The table of a study as it stands; trains and writes nothing.

    Args:
        path: The study file.
        overrides: See `read_study_file`.
        note: Shows one line, such as what the study file now says otherwise.

    Raises:
        ConfigError, RunError, IntegrityError, MissingExtraError: As `run_sweep`.
    """
    found = _read(path, overrides)
    trials, changes = read_trials(found)
    for line in changes:
        note(f"changed since the study began: {line}")
    return study_table(found, trials)


def _read(path: Path, overrides: Sequence[str]) -> Candidates:
    file = read_study_file(path, overrides)
    metric = file.section.metric
    if metric not in (*LOSS_METRICS, *metric_names()):
        names = [*LOSS_METRICS, *metric_names()]
        raise ConfigError(f"sweep.metric: '{metric}' is unknown.{suggest(metric, names)} Allowed: {', '.join(names)}.")
    return read_candidates(file)


class _Work:
    """The trials of one call."""

    def __init__(self, found: Candidates, store: StudyStore, note: Note) -> None:
        self._found = found
        self._store = store
        self._note = note
        self._section = found.file.section
        self._results = found.folder / "results"
        self._processes = Processes(self._section.parallel)
        self._open: dict[int, list[RunConfig]] = {}

    def controls(self) -> None:
        """Train the base with other seeds, unless another worker is at it."""
        pending = self._pending(self._found.control_configs(), None)
        if pending and self._store.claims.claim(_CONTROL):
            self._processes.run(self._orders(pending, None), on_end=self._tell)
            self._store.claims.release(_CONTROL)

    def all(self) -> None:
        """Train every trial to its end."""
        self._processes.run(self._orders_of_trials(), on_end=self._settle_ended)
        self._settle_ended()

    def halve(self) -> None:
        """Train all trials a little, the better ones further."""
        mine = {trial.number for trial in self._store.take(len(self._found.listed))}
        known = [trial for trial in self._store.trials() if trial.params]
        others = [each.number for each in known if each.state == "running" and each.number not in mine]
        if others:
            raise RunError(
                f"trials {others}: another process is at them; halving is led by one process, see sweep.parallel"
            )
        runs = {each.number: self._found.configs(each.number, each.params) for each in known}
        alive = list(runs)
        for step in self._found.rungs[:-1]:
            self._train([config for number in alive for config in runs[number]], step, len(alive))
            losses = self._losses({number: runs[number] for number in alive}, mine, step)
            alive = promoted(losses, self._section.halving.factor if self._section.halving else 1) if losses else []
            ranks = {number: rank for rank, number in enumerate(sorted(losses, key=lambda n: (losses[n], n)), start=1)}
            for number in (losses.keys() - set(alive)) & mine:
                place = f"place {ranks[number]} of {len(losses)}"
                self._store.prune(number, f"step {step}: eval_loss {losses[number]:.4f}, {place}")
                mine.remove(number)
        self._train([config for number in alive for config in runs[number]], None, len(alive))
        for number in mine.intersection(alive):
            self._settle(number, runs[number])

    def _train(self, configs: Sequence[RunConfig], stop: int | None, num_trials: int) -> None:
        pending = self._pending(configs, stop)
        until = self._found.rungs[-1] if stop is None else stop
        self._note(f"up to step {until}: {num_trials} trials, {len(pending)} runs to train")
        self._processes.run(self._orders(pending, stop), on_end=self._tell)

    def _losses(self, runs: dict[int, list[RunConfig]], mine: set[int], step: int) -> dict[int, float]:
        """Mean validation loss at a step of each trial that has come there; the others have failed."""
        losses = {}
        for number, configs in runs.items():
            reasons = self._failures(configs)
            found = [loss_at(self._found.folder / config.run.name, step) for config in configs]
            values = [value for value in found if value is not None]
            if not reasons and len(values) == len(found):
                losses[number] = mean(values)
            elif number in mine:
                self._store.fail(number, reasons or f"no validation loss at step {step}")
                mine.remove(number)
        return losses

    def _orders_of_trials(self) -> Iterator[Order]:
        at_once = max(1, self._section.runs_at_once // len(self._found.seeds))
        while taken := self._store.take(at_once):
            configs = []
            for trial in taken:
                self._note(f"trial {trial.number}: {describe(trial.params)}")
                self._open[trial.number] = self._found.configs(trial.number, trial.params)
                configs += self._open[trial.number]
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
        for number, configs in list(self._open.items()):
            if not self._pending(configs, None):
                del self._open[number]
                self._settle(number, configs)

    def _settle(self, number: int, configs: Sequence[RunConfig]) -> None:
        reasons = self._failures(configs)
        results = [read_result(self._results, config.run.name) for config in configs]
        values = [result.value for result in results if result is not None and result.value is not None]
        if reasons or len(values) < len(configs):
            self._store.fail(number, reasons or "a run has no value")
        else:
            self._store.complete(number, mean(values))
        write_table(study_table(self._found, self._store.trials()))

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
