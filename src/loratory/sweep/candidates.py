"""From a study to the configurations of its runs, all of them validated before the first one trains."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.config import RunConfig, build_config, read_config
from loratory.config.document import read_document
from loratory.config.fields import field_of
from loratory.engine.prepare import data_fingerprints
from loratory.engine.shared_base import refuse_unshareable
from loratory.errors import ConfigError
from loratory.interop.peft_document import is_peft_document
from loratory.sweep.halving import rungs
from loratory.sweep.space import Params, corners, draws, grid
from loratory.sweep.study_file import LOSS_METRICS, StudyFile


@dataclass(frozen=True, slots=True)
class Candidates:
    """The study's runs.

    Attributes:
        folder: The study's folder; run directories are in it.
        listed: Parameters of each trial in order; empty when the sampler decides as it goes.
        seeds: Of the runs of each trial.
        rungs: Steps at which a selection is made, the last being the end of a run; empty without halving.
        file: The study file.
        values: The base's values.
    """

    folder: Path
    listed: tuple[Params, ...]
    seeds: tuple[int, ...]
    rungs: tuple[int, ...]
    file: StudyFile
    values: Mapping[str, Any]

    def configs(self, number: int, params: Params) -> list[RunConfig]:
        """The runs of a trial, one for each seed."""
        named = zip(self.run_names(number), self.seeds, strict=True)
        return [self._config(name, params, seed) for name, seed in named]

    def run_names(self, number: int) -> tuple[str, ...]:
        """Names of the runs of a trial, one for each seed."""
        several = len(self.seeds) > 1
        return tuple(f"trial-{number:03}" + (f"-seed-{seed}" if several else "") for seed in self.seeds)

    def control_configs(self) -> list[RunConfig]:
        """The base itself with one seed after the other."""
        named = zip(self.control_names(), self._control_seeds, strict=True)
        return [self._config(name, {}, seed) for name, seed in named]

    def control_names(self) -> tuple[str, ...]:
        """Names of the control's runs."""
        return tuple(f"control-seed-{seed}" for seed in self._control_seeds)

    @property
    def _control_seeds(self) -> range:
        return range(self.seeds[0], self.seeds[0] + self.file.section.num_controls)

    def base_config(self) -> RunConfig:
        """The base as its runs see it."""
        return self._config("base", {}, self.seeds[0])

    def _config(self, name: str, params: Params, seed: int) -> RunConfig:
        section, values = self.file.section, _with(self.values, params)
        run, train = dict(values.get("run") or {}), dict(values.get("train") or {})
        train["seed"] = seed
        if section.memory_gib is not None:
            train["memory_budget_gib"] = float(section.memory_gib) / section.parallel
        if section.parallel > 1 and train.get("num_threads") is None:
            train["num_threads"] = max(1, (os.cpu_count() or 1) // section.parallel)
        if section.halving is not None and train.get("eval_steps") is None:
            train["eval_steps"] = section.halving.min_steps
        run |= {"name": name, "output_dir": str(self.folder)}
        others = [each for each in self.file.base_overrides if not each.startswith(("run.", "train.seed="))]
        return build_config({**values, "run": run, "train": train}, others)


def read_candidates(file: StudyFile) -> Candidates:
    """Resolve the base and list the trials.

    Raises:
        ConfigError: The base is no valid run, or does not fit the study.
    """
    section, path = file.section, Path(file.section.base)
    base = read_config(path, file.base_overrides).config
    document = read_document(path)
    assert isinstance(document, dict)
    values = base.model_dump(mode="json") if is_peft_document(document) else document
    if not base.data.train:
        raise ConfigError(f"{path}: data.train: names no training rows")
    faults = _faults_of_base(base, file)
    if faults:
        raise ConfigError(faults)
    if section.method == "grid":
        listed = grid(file.axes)
    else:
        listed = draws(file.axes, section.num_trials or 0, seed=section.seed) if section.method == "random" else []
    return Candidates(
        folder=Path(base.run.output_dir) / file.name,
        listed=tuple(listed),
        seeds=tuple(section.seeds) or (base.train.seed,),
        rungs=rungs(section.halving.min_steps, section.halving.factor, base.train.max_steps or 1)
        if section.halving
        else (),
        file=file,
        values=values,
    )


def refuse_invalid(found: Candidates) -> None:
    """Validate the configuration of every trial; where the sampler decides, the ends of each axis stand for them.

    Raises:
        ConfigError: Any is no valid run, or runs that share a base cannot; every different fault is listed once.
        DataError: Training data are missing.
    """
    listed = found.listed or corners(found.file.axes)
    faults: dict[str, int] = {}
    configs: list[RunConfig] = []
    for number, params in enumerate(listed):
        try:
            configs += found.configs(number, params)
        except ConfigError as error:
            for fault in error.faults:
                faults.setdefault(fault, number)
    if faults:
        raise ConfigError([f"{fault} (trial {number}: {describe(listed[number])})" for fault, number in faults.items()])
    if found.file.section.runs_at_once > 1:
        refuse_unshareable([*found.control_configs(), *configs])
    data_fingerprints(found.base_config().data)


def _faults_of_base(base: RunConfig, file: StudyFile) -> list[str]:
    section, faults = file.section, []
    has_validation = base.data.validation is not None or bool(base.data.val_size)
    if (section.metric == "eval_loss" or section.halving) and not has_validation:
        faults.append(f"{section.base}: eval_loss needs validation rows; set data.validation or data.val_size")
    if section.metric not in LOSS_METRICS and score_source(base, file) is None:
        faults.append(
            f"sweep.metric: {section.metric} needs rows; set sweep.score_data, or data.validation of the base"
        )
    if section.halving is not None:
        fixed = [
            axis.key for axis in file.axes if axis.key in ("train.max_steps", "train.num_epochs", "train.eval_steps")
        ]
        faults += [f"sweep.space.{key}: halving compares runs at equal steps; leave it out" for key in fixed]
        if base.train.max_steps is None:
            faults.append(f"{section.base}: halving needs train.max_steps, the length of a run that goes to the end")
        elif section.halving.min_steps >= base.train.max_steps:
            faults.append(f"sweep.halving.min_steps: must be below train.max_steps, {base.train.max_steps}")
        if base.train.early_stopping_patience is not None:
            faults.append(f"{section.base}: train.early_stopping_patience and halving both end runs; leave one out")
        if base.train.eval_steps is not None and section.halving.min_steps % base.train.eval_steps:
            faults.append(
                "sweep.halving.min_steps: must be a multiple of train.eval_steps, so that a pause adds nothing"
            )
    return faults


def score_source(base: RunConfig, file: StudyFile) -> str | None:
    """The rows that text metrics are measured on."""
    for source in (file.section.score_data, base.data.validation, base.data.test):
        if isinstance(source, str):
            return source
    return None


def _with(values: Mapping[str, Any], params: Params) -> dict[str, Any]:
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for key, value in params.items():
        field = field_of(key)
        assert field is not None
        target = merged
        for step in field.section.split("."):
            target[step] = dict(target.get(step) or {})
            target = target[step]
        if key == field.key:
            target[field.name] = value
        else:
            target[field.name] = {**(target.get(field.name) or {}), key[len(field.key) + 1 :]: value}
    return merged


def describe(params: Params) -> str:
    """Parameters as text, by the last part of their keys."""
    return ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in params.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "+".join(str(item) for item in value)
    return str(value)
