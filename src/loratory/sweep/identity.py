"""What a study is a study of, written into its storage: its file, its base run, the data and the version."""

import json
from typing import TYPE_CHECKING

from loratory import __version__
from loratory.engine.prepare import data_fingerprints
from loratory.engine.run_identity import relevant_config
from loratory.errors import IntegrityError
from loratory.sweep.candidates import Candidates

if TYPE_CHECKING:
    import optuna

_IDENTITY = "loratory"
_FREE = ("num_trials", "parallel", "concurrent", "memory_gib", "storage", "name", "base", "score_data", "control")
_ABSENT = "(absent)"


def sign(study: "optuna.Study", found: Candidates) -> None:
    """Write into the study what it is a study of."""
    study.set_user_attr(_IDENTITY, json.dumps(_identity(found)))


def is_signed(study: "optuna.Study") -> bool:
    """Whether it says what it is a study of."""
    return _IDENTITY in study.user_attrs


def refuse_changes(study: "optuna.Study", found: Candidates) -> None:
    """Refuse to go on with a study of something else.

    Raises:
        IntegrityError: With what differs.
    """
    lines = changes(study, found)
    if lines:
        raise IntegrityError(
            f"study '{found.file.name}' cannot be gone on with, because what it was begun with has changed:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nRestore these, or choose another sweep.name."
        )


def changes(study: "optuna.Study", found: Candidates) -> list[str]:
    """What the study file says otherwise than when the study was begun.

    Raises:
        IntegrityError: Other code made it.
    """
    stored = study.user_attrs.get(_IDENTITY)
    if stored is None:
        keys = sorted({key for trial in study.get_trials(deepcopy=False) for key in trial.params})
        raise IntegrityError(
            f"study '{found.file.name}' was made by other code: it does not say what it is a study of. Its parameters: "
            f"{', '.join(keys) or 'none'}; those of the study file: {', '.join(axis.key for axis in found.file.axes)}. "
            "Choose another sweep.name or sweep.storage."
        )
    then, now = json.loads(stored), json.loads(json.dumps(_identity(found)))
    keys = [key for key in sorted(then.keys() | now.keys()) if then.get(key, _ABSENT) != now.get(key, _ABSENT)]
    return [f"{key}: {then.get(key, _ABSENT)} then, {now.get(key, _ABSENT)} now" for key in keys]


def _identity(found: Candidates) -> dict[str, object]:
    section = found.file.section
    study = section.model_dump(mode="json", exclude={"space", *_FREE})
    base = found.base_config()
    space = {f"space.{axis.key}": section.space[axis.key] for axis in found.file.axes}
    data = {f"data {role}": digest for role, digest in data_fingerprints(base.data).items()}
    kept = {f"base {key}": value for key, value in relevant_config(base).items() if key not in section.space}
    return {"loratory version": __version__, **study, **space, **data, **kept}
