"""Runs grouped by what was set: runs that differ in the seed only are replicates of one setting."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.compare.run_facts import RunFacts
from loratory.config.fields import config_fields

# Names, places, and how often something is written: no settings. What the data files hold is compared by content.
_NO_SETTINGS = {
    "train.seed",
    "train.logging_steps",
    "train.save_steps",
    "train.save_total_limit",
    "train.probe",
    "data.train",
    "data.validation",
    "data.test",
    "data.dataset_dir",
    "data.token_cache",
    "model.model_name_or_path",
    "predict.batch_size",
}
_NO_SETTING_SECTIONS = ("run.", "evaluation.")
_BASE_KEY = "model.model_name_or_path"
_SEED_ENDING = re.compile(r"[-_.]*(seed|s)?[-_.]?\d+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One thing that was set.

    Attributes:
        value: What decides whether two runs have the same: for files, the sha256 of the content.
        shown: For readers.
    """

    value: str
    shown: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that not all settings have in common.

    Attributes:
        key: Dotted configuration key.
        values: Shown value of each setting.
    """

    key: str
    values: tuple[str, ...]


def setting_of(run: RunFacts) -> dict[str, SettingKey]:
    """Everything that was set, by dotted key."""
    # A run of an older version lacks the newer keys; it ran with what is their default now.
    defaults = {key: field.default for key, field in config_fields().items() if not key.startswith("objective.")}
    found = {
        key: SettingKey(_canonical(value), _shown(value))
        for key, value in {**defaults, **run.config}.items()
        if key not in _NO_SETTINGS and not key.startswith(_NO_SETTING_SECTIONS)
    }
    found[_BASE_KEY] = SettingKey(run.base_identity, _shown(run.config.get(_BASE_KEY)))
    for role, sha256 in run.data.items():
        source = run.config.get(f"data.{role}")
        name = Path(source).name if isinstance(source, str) else _shown(source) if source else ""
        found[f"data.{role}"] = SettingKey(sha256, f"{name} ({sha256[:8]})".strip())
    return found


def group_runs(runs: Sequence[RunFacts]) -> tuple[tuple[RunFacts, ...], ...]:
    """Runs of one setting together, in the order of their first run, by seed inside.

    Runs with the same setting and the same seed stay apart: the same thing twice is no replicate.
    """
    groups: dict[object, list[RunFacts]] = {}
    for run in runs:
        key: object = tuple(sorted((name, each.value) for name, each in setting_of(run).items()))
        while any(other.seed == run.seed for other in groups.get(key, ())):
            key = (key, "again")
        groups.setdefault(key, []).append(run)
    return tuple(tuple(sorted(group, key=lambda run: run.seed or 0)) for group in groups.values())


def differences(groups: Sequence[Sequence[RunFacts]]) -> tuple[Difference, ...]:
    """The keys that not all settings have in common."""
    found = [setting_of(group[0]) for group in groups]
    absent = SettingKey("", "–")
    keys = sorted({key for each in found for key in each})
    return tuple(
        Difference(key, _told_apart([each.get(key, absent) for each in found]))
        for key in keys
        if len({each.get(key, absent).value for each in found}) > 1
    )


def environment_differences(runs: Sequence[RunFacts]) -> tuple[Difference, ...]:
    """Versions and machine facts that not all runs have in common."""
    keys = sorted({key for run in runs for key in run.environment})
    rows = {key: tuple(run.environment.get(key, "–") for run in runs) for key in keys}
    return tuple(Difference(key, values) for key, values in rows.items() if len(set(values)) > 1)


def setting_names(groups: Sequence[Sequence[RunFacts]]) -> tuple[str, ...]:
    """A short name for each setting: its run's, without the seed at its end where there are several."""
    names = [group[0].name if len(group) == 1 else _stem(group) for group in groups]
    if len(set(names)) == len(names):
        return tuple(names)
    names = [group[0].name for group in groups]
    return tuple(names) if len(set(names)) == len(names) else tuple(str(group[0].path) for group in groups)


def _stem(group: Sequence[RunFacts]) -> str:
    stems = {_SEED_ENDING.sub("", run.name) for run in group}
    return stem if len(stems) == 1 and (stem := stems.pop()) else group[0].name


def _told_apart(keys: Sequence[SettingKey]) -> tuple[str, ...]:
    """Shown values; where different values look alike, a piece of the value tells them apart."""
    looks: dict[str, set[str]] = {}
    for key in keys:
        looks.setdefault(key.shown, set()).add(key.value)
    return tuple(f"{key.shown} (sha256 {key.value[:8]})" if len(looks[key.shown]) > 1 else key.shown for key in keys)


def _canonical(value: object) -> str:
    """Equal for what is equal: 16 and 16.0, a tuple and a list, an empty mapping and none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value or None if isinstance(value, dict) else value, sort_keys=True, default=str)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
