"""The study in Optuna's storage: what it is a study of, its trials, and who works on which.

Law: a study is gone on with only under the settings, the data and the version it was begun with.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loratory import __version__
from loratory.engine.prepare import data_fingerprints
from loratory.engine.run_identity import relevant_config
from loratory.errors import IntegrityError, MissingExtraError, RunError
from loratory.sweep.candidates import Candidates
from loratory.sweep.space import Axis, Params, encode

if TYPE_CHECKING:
    import optuna

_IDENTITY = "loratory"
_LISTED = "loratory_listed"
_REASON = "reason"
_FREE = ("num_trials", "parallel", "concurrent", "memory_gib", "storage", "name", "base", "score_data", "control")
_ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial as the storage has it.

    Attributes:
        number: Its number.
        params: Key -> value.
        state: running, complete, pruned, failed or waiting.
        value: Its metric.
        reason: Why it failed or was given up.
    """

    number: int
    params: Params
    state: str
    value: float | None
    reason: str


class StudyStore:
    """One study, open for work or for reading.

    Args:
        found: The study's candidates.
        resume: Go on with a study, or join it; otherwise it is begun.

    Raises:
        RunError: It exists and is not to be gone on with, or the other way round.
        IntegrityError: It is a study of something else.
        MissingExtraError: Optuna is not installed.
    """

    def __init__(self, found: Candidates, *, resume: bool) -> None:
        self._optuna = _optuna()
        self._found = found
        self._axes: Mapping[str, Axis] = {axis.key: axis for axis in found.file.axes}
        self._distributions = {axis.key: axis.distribution() for axis in found.file.axes}
        self._claims: dict[int, int] = {}
        section = found.file.section
        found.folder.mkdir(parents=True, exist_ok=True)
        self.url = section.storage or f"sqlite:///{found.folder / 'study.db'}"
        storage = self._optuna.storages.get_storage(self.url)
        name, exists = found.file.name, found.file.name in self._optuna.get_all_study_names(storage)
        if exists and not resume:
            raise RunError(
                f"{found.folder}: a study '{name}' is there. Go on with it, or join it, with --resume; or rename."
            )
        if not exists and resume:
            raise RunError(f"{found.folder}: no study '{name}' to go on with; begin it without --resume")
        if exists:
            self._study = self._optuna.load_study(study_name=name, storage=storage, sampler=self._sampler(0))
            self._refuse_changes()
            self._study.sampler = self._sampler(len(self._study.trials))
        else:
            direction = "maximize" if section.maximizes else "minimize"
            self._study = self._optuna.create_study(
                study_name=name, storage=storage, sampler=self._sampler(0), direction=direction
            )
            self._study.set_user_attr(_IDENTITY, json.dumps(_identity(found)))
        self._list(found.listed)

    def take(self, limit: int) -> "list[optuna.Trial]":
        """Up to so many trials to work on: those of workers that are gone first, then new ones."""
        taken = self._adopt(limit)
        while len(taken) < limit and self._has_more():
            trial = self._study.ask(self._distributions)
            if self._found.listed and _LISTED not in trial.user_attrs:
                self.fail(trial, "no candidate was left: another worker took the last one")
                break
            if self._claim(trial.number):
                taken.append(trial)
        return taken

    def params(self, trial: "optuna.Trial") -> Params:
        """The trial's values as the run file has them."""
        return {key: self._axes[key].decode(value) for key, value in trial.params.items()}

    def complete(self, trial: "optuna.Trial", value: float) -> None:
        """The trial is done."""
        self._study.tell(trial, value)
        self._release(trial.number)

    def report(self, trial: "optuna.Trial", value: float, step: int) -> None:
        """A value on the way; once said it stays."""
        if step not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(value, step)

    def prune(self, trial: "optuna.Trial", reason: str) -> None:
        """The trial did not go on to the end."""
        trial.set_user_attr(_REASON, reason)
        self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        self._release(trial.number)

    def fail(self, trial: "optuna.Trial", reason: str) -> None:
        """The trial failed; its reason is kept."""
        trial.set_user_attr(_REASON, reason)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._release(trial.number)

    def trials(self) -> list[StoredTrial]:
        """Every trial so far."""
        names = {"FAIL": "failed"}
        return [
            StoredTrial(
                frozen.number,
                {key: self._axes[key].decode(value) for key, value in self._values(frozen).items()},
                names.get(frozen.state.name, frozen.state.name.lower()),
                frozen.value if frozen.state.name == "COMPLETE" else None,
                str(frozen.user_attrs.get(_REASON, "")),
            )
            for frozen in self._study.get_trials(deepcopy=False)
        ]

    def _values(self, frozen: "optuna.trial.FrozenTrial") -> Mapping[str, Any]:
        fixed: Mapping[str, Any] = frozen.params or frozen.system_attrs.get("fixed_params", {})
        return fixed

    def _sampler(self, done: int) -> "optuna.samplers.BaseSampler":
        section = self._found.file.section
        if section.method != "tpe":
            return self._optuna.samplers.RandomSampler(seed=section.seed + done)
        startup = min(10, max(2, (section.num_trials or 0) // 4))
        return self._optuna.samplers.TPESampler(seed=section.seed + done, n_startup_trials=startup)

    def _has_more(self) -> bool:
        trials = self._study.get_trials(deepcopy=False)
        if self._found.listed:
            return any(trial.state.name == "WAITING" for trial in trials)
        return len(trials) < (self._found.file.section.num_trials or 0)

    def _list(self, listed: Sequence[Params]) -> None:
        """Put candidates that are not in the storage yet there, in order."""
        known = len(self._study.get_trials(deepcopy=False))
        for params in listed[known:]:
            encoded = {key: encode(value) if self._axes[key].choices else value for key, value in params.items()}
            self._study.enqueue_trial(encoded, user_attrs={_LISTED: True})

    def _adopt(self, limit: int) -> "list[optuna.Trial]":
        taken: list[optuna.Trial] = []
        for frozen in self._study.get_trials(deepcopy=False):
            if len(taken) < limit and frozen.state.name == "RUNNING" and self._claim(frozen.number):
                trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
                for key, distribution in self._distributions.items():
                    trial._suggest(key, distribution)
                taken.append(trial)
        return taken

    def _claim(self, number: int) -> bool:
        """Lock the trial for this process; the system gives the lock back when the process is gone."""
        if number in self._claims:
            return False
        folder = self._found.folder / ".claims"
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / f"trial-{number:03}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._claims[number] = descriptor
        return True

    def _release(self, number: int) -> None:
        descriptor = self._claims.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)

    def _refuse_changes(self) -> None:
        stored = self._study.user_attrs.get(_IDENTITY)
        where = f"study '{self._found.file.name}'"
        if stored is None:
            keys = sorted({key for trial in self._study.get_trials(deepcopy=False) for key in trial.params})
            raise IntegrityError(
                f"{where} was made by other code: it does not say what it is a study of. Its parameters: "
                f"{', '.join(keys) or 'none'}; those of the study file: {', '.join(self._axes)}. Choose another "
                "sweep.name or sweep.storage."
            )
        then, now = json.loads(stored), json.loads(json.dumps(_identity(self._found)))
        keys = [key for key in sorted(then.keys() | now.keys()) if then.get(key, _ABSENT) != now.get(key, _ABSENT)]
        if keys:
            lines = [f"  {key}: {then.get(key, _ABSENT)} then, {now.get(key, _ABSENT)} now" for key in keys]
            raise IntegrityError(
                f"{where} cannot be gone on with, because what it was begun with has changed:\n"
                + "\n".join(lines)
                + "\nRestore these, or choose another sweep.name."
            )


def _identity(found: Candidates) -> dict[str, object]:
    section = found.file.section
    study = section.model_dump(mode="json", exclude={"space", *_FREE})
    base = found.base_config()
    space = {f"space.{axis.key}": section.space[axis.key] for axis in found.file.axes}
    data = {f"data {role}": digest for role, digest in data_fingerprints(base.data).items()}
    kept = {f"base {key}": value for key, value in relevant_config(base).items() if key not in found.file.section.space}
    return {"loratory version": __version__, **study, **space, **data, **kept}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("loratory sweep", "sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
