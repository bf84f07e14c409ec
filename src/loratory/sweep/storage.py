"""The study in Optuna's storage: its trials, and who works on which.

Laws: a study is gone on with only under the settings, the data and the version it was begun with; what is proposed
depends on the seed and the trials so far, so that a study that was killed goes on as if it had not been.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from loratory.errors import ConfigError, MissingExtraError, RunError
from loratory.sweep.candidates import Candidates
from loratory.sweep.claims import Claims
from loratory.sweep.identity import changes, is_signed, refuse_changes, sign
from loratory.sweep.space import Axis, Params, encode

if TYPE_CHECKING:
    import optuna

_REASON = "loratory reason of trial "
_CANDIDATE = "loratory candidate"
_PLACE = "loratory place"
_GRACE_S = 60.0  # a worker of another place says within this time that a trial is its own


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial as the storage has it.

    Attributes:
        number: Its number.
        params: Key -> value; empty for a spare, which workers bring about that list or take the last candidate at the
            same time.
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
    """One study, open for work.

    Args:
        found: The study's candidates.
        resume: Go on with a study, or join it; otherwise it is begun.

    Raises:
        RunError: It exists and is not to be gone on with, or the other way round.
        IntegrityError: It is a study of something else.
        ConfigError: The storage cannot be opened.
        MissingExtraError: Optuna is not installed.
    """

    def __init__(self, found: Candidates, *, resume: bool) -> None:
        self._optuna = _optuna()
        self._found = found
        self._distributions = {axis.key: axis.distribution() for axis in found.file.axes}
        found.folder.mkdir(parents=True, exist_ok=True)
        self.claims = Claims(found.folder / ".claims")
        with self.claims.listing():
            study = _load(self._optuna, found)
            if study is not None and not resume:
                raise RunError(
                    f"{found.folder}: a study '{found.file.name}' is there. Go on with it, or join it, with --resume; "
                    "or rename."
                )
            if study is None and resume:
                raise RunError(f"{found.folder}: no study '{found.file.name}' to go on with; begin it without --resume")
            if study is None:
                study = self._begin()
            elif self._is_hardly_begun(study):
                sign(study, found)
            else:
                refuse_changes(study, found)
            self._study = study
            self._list(found.listed)

    def take(self, limit: int) -> list[StoredTrial]:
        """Up to so many trials to work on: those of workers that are gone first, then new ones."""
        taken = self._adopt(limit)
        while len(taken) < limit and self._has_more():
            trial = self._ask()
            if trial is not None:
                taken.append(trial)
        return taken

    def complete(self, number: int, value: float) -> None:
        """The trial is done."""
        self._study.tell(number, value)
        self.claims.release(number)

    def prune(self, number: int, reason: str) -> None:
        """The trial did not go on to the end."""
        self._end(number, reason, self._optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """The trial failed; its reason is kept."""
        self._end(number, reason, self._optuna.trial.TrialState.FAIL)

    def trials(self) -> list[StoredTrial]:
        """Every trial so far."""
        return _stored_trials(self._study, self._found)

    def _begin(self) -> "optuna.Study":
        direction = "maximize" if self._found.file.section.maximizes else "minimize"
        study: optuna.Study = self._optuna.create_study(
            study_name=self._found.file.name, storage=storage_url(self._found), direction=direction
        )
        sign(study, self._found)
        return study

    def _is_hardly_begun(self, study: "optuna.Study") -> bool:
        """A worker was killed after its first word, or another one is about to say the second."""
        return not is_signed(study) and not study.get_trials(deepcopy=False)

    def _end(self, number: int, reason: str, state: "optuna.trial.TrialState") -> None:
        self._study.set_user_attr(f"{_REASON}{number}", reason)
        self._study.tell(number, state=state)
        self.claims.release(number)

    def _ask(self) -> StoredTrial | None:
        """A new trial; None when it cannot be worked on."""
        self._study.sampler = self._sampler(len(self._frozen()))
        trial = self._study.ask(self._distributions)
        is_own = self.claims.claim(trial.number)
        trial.set_user_attr(_PLACE, self.claims.place)
        fault = self._listing_fault(trial.number, trial.user_attrs.get(_CANDIDATE))
        if fault is not None:
            self.fail(trial.number, fault)
        return self._stored(trial.number) if is_own and fault is None else None

    def _listing_fault(self, number: int, candidate: int | None) -> str | None:
        """What several workers can bring about that list or take the last candidate at the same time."""
        if not self._found.listed:
            return None
        if candidate is None:
            return "no candidate was left: another worker took the last one"
        first = next(t.number for t in self._frozen() if t.user_attrs.get(_CANDIDATE) == candidate)
        return None if first == number else f"listed twice; it is trial {first}"

    def _stored(self, number: int) -> StoredTrial:
        return next(trial for trial in self.trials() if trial.number == number)

    def _frozen(self) -> "list[optuna.trial.FrozenTrial]":
        found: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return found

    def _sampler(self, num_trials: int) -> "optuna.samplers.BaseSampler":
        section = self._found.file.section
        seed = int(np.random.SeedSequence([section.seed, num_trials]).generate_state(1)[0])
        if section.method != "tpe":
            return self._optuna.samplers.RandomSampler(seed=seed)
        startup = min(10, max(2, (section.num_trials or 0) // 4))
        return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)

    def _has_more(self) -> bool:
        trials = self._frozen()
        if self._found.listed:
            return any(trial.state.name == "WAITING" for trial in trials)
        return len(trials) < (self._found.file.section.num_trials or 0)

    def _list(self, listed: Sequence[Params]) -> None:
        """Put candidates that are not in the storage yet there, in order."""
        known = {trial.user_attrs.get(_CANDIDATE) for trial in self._frozen()}
        for index, params in enumerate(listed):
            if index not in known:
                encoded = {key: encode(value) for key, value in params.items()}
                self._study.enqueue_trial(encoded, user_attrs={_CANDIDATE: index})

    def _adopt(self, limit: int) -> list[StoredTrial]:
        """Trials whose worker at this place is gone."""
        taken: list[StoredTrial] = []
        for frozen in self._frozen():
            if len(taken) == limit or frozen.state.name != "RUNNING" or not self._is_of_this_place(frozen):
                continue
            if not self.claims.claim(frozen.number):
                continue
            stored = self._stored(frozen.number)
            if stored.params.keys() == self._distributions.keys():
                taken.append(stored)
            else:
                self.fail(frozen.number, "its worker was killed before the trial had all its values")
        return taken

    def _is_of_this_place(self, frozen: "optuna.trial.FrozenTrial") -> bool:
        place = frozen.user_attrs.get(_PLACE)
        if place is not None:
            return bool(place == self.claims.place)
        start: datetime | None = frozen.datetime_start
        return start is not None and time.time() - start.timestamp() > _GRACE_S


def read_trials(found: Candidates) -> tuple[list[StoredTrial], list[str]]:
    """The trials of a study, and what the study file says otherwise than when it was begun. Writes nothing.

    Raises:
        RunError: There is no such study.
        IntegrityError: Other code made it.
        ConfigError: The storage cannot be opened.
        MissingExtraError: Optuna is not installed.
    """
    library = _optuna()
    is_local = found.file.section.storage is None
    study = None if is_local and not _database(found).is_file() else _load(library, found)
    if study is None:
        raise RunError(f"{found.folder}: no study '{found.file.name}' there; begin it with: loratory sweep FILE")
    return _stored_trials(study, found), changes(study, found)


def storage_url(found: Candidates) -> str:
    """Where the study is kept."""
    return found.file.section.storage or f"sqlite:///{_database(found).resolve()}?timeout=60"


def _database(found: Candidates) -> Any:
    return found.folder / "study.db"


def _load(library: Any, found: Candidates) -> "optuna.Study | None":
    import sqlalchemy.exc

    try:
        study: optuna.Study = library.load_study(study_name=found.file.name, storage=storage_url(found))
    except KeyError:
        return None
    except (library.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        raise ConfigError(
            f"sweep.storage: cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]}). Give the URL of "
            "a database that Optuna can reach, such as sqlite:///study.db or postgresql://USER@HOST/NAME, and "
            "install its driver."
        ) from error
    return study


def _stored_trials(study: "optuna.Study", found: Candidates) -> list[StoredTrial]:
    axes: Mapping[str, Axis] = {axis.key: axis for axis in found.file.axes}
    reasons, seen, trials = study.user_attrs, set(), []
    for frozen in study.get_trials(deepcopy=False):
        candidate, state = frozen.user_attrs.get(_CANDIDATE), frozen.state.name
        if not found.listed:
            params = {key: axes[key].decode(value) if key in axes else value for key, value in frozen.params.items()}
        else:
            is_own = candidate is not None and candidate < len(found.listed) and candidate not in seen
            params = found.listed[candidate] if is_own else {}
            seen.add(candidate)
        trials.append(
            StoredTrial(
                number=frozen.number,
                params=params,
                state="failed" if state == "FAIL" else state.lower(),
                value=frozen.value if state == "COMPLETE" else None,
                reason=str(reasons.get(f"{_REASON}{frozen.number}", "")),
            )
        )
    return trials


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("loratory sweep", "sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
