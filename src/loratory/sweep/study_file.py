"""The study file: section `sweep`, checked as strictly as a run file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from loratory.config.document import parse_document, read_document
from loratory.config.section import Section
from loratory.errors import ConfigError, suggest
from loratory.sweep.space import Axis, read_space

Method = Literal["grid", "random", "tpe"]
LOSS_METRICS = ("eval_loss", "loss")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
DEFAULT_CONCURRENT = 8
DEFAULT_CONTROL = 3


class HalvingSection(Section):
    """Successive halving: all candidates train a little, the better part goes on."""

    min_steps: int = Field(ge=1, description="Optimizer steps before the first selection.")
    factor: int = Field(3, ge=2, description="One in so many goes on, to so many times the steps.")


class SweepSection(Section):
    """What is tried, how, and by what it is judged."""

    base: str = Field(description="The run file that every trial starts from.")
    name: str | None = Field(None, pattern=_NAME, description="Name of the study; default: the file's name.")
    method: Method = Field("grid", description="grid, random or tpe (Optuna).")
    num_trials: int | None = Field(None, ge=1, description="Trials of random and tpe.")
    space: dict[str, Any] = Field(description="Key of the run file -> list of values, or {low, high, log, step}.")
    metric: str = Field("eval_loss", description="eval_loss, loss, or a text metric such as exact_match.")
    direction: Literal["minimize", "maximize"] | None = Field(None, description="Default: as the metric is good.")
    score_data: str | None = Field(None, description="Rows for text metrics; default: data.validation, else data.test.")
    seeds: list[int] = Field(
        default_factory=list, description="Each trial is repeated with these; default: the base's."
    )
    control: bool | int = Field(False, description="A/A control: the base itself with so many seeds; true: 3.")
    halving: HalvingSection | None = Field(None, description="Successive halving.")
    storage: str | None = Field(None, description="Optuna storage URL; default: SQLite in the study's folder.")
    parallel: int = Field(1, ge=1, description="Processes at a time.")
    concurrent: bool | int = Field(1, description="Runs that share one base in one process; true: 8.")
    memory_gib: float | None = Field(None, gt=0, description="Memory for all processes together.")
    seed: int = Field(0, ge=0, description="Seed of random and tpe.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults = []
        if self.method == "grid" and self.num_trials is not None:
            faults.append("num_trials: a grid tries all of its points; leave it out, or take method random or tpe")
        if self.method != "grid" and self.num_trials is None:
            faults.append(f"num_trials: method {self.method} needs it")
        if self.method == "tpe" and self.halving is not None:
            faults.append("halving: needs all candidates at the start; take method grid or random")
        if len(set(self.seeds)) < len(self.seeds) or any(seed < 0 for seed in self.seeds):
            faults.append(f"seeds: expected different numbers of 0 or more; got {self.seeds}")
        if int(self.concurrent) < 1:
            faults.append("concurrent: expected true or a number of 1 or more")
        if int(self.control) < 0:
            faults.append("control: expected true, false or a number of seeds")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def runs_at_once(self) -> int:
        """Runs that share a base."""
        return DEFAULT_CONCURRENT if self.concurrent is True else int(self.concurrent)

    @property
    def num_controls(self) -> int:
        """Seeds of the A/A control."""
        return DEFAULT_CONTROL if self.control is True else int(self.control)

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better."""
        return self.direction == "maximize" if self.direction else self.metric not in LOSS_METRICS


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study file, read.

    Attributes:
        name: Name of the study.
        section: Its values.
        axes: The space.
        base_overrides: Assignments for the base's run file.
    """

    name: str
    section: SweepSection
    axes: tuple[Axis, ...]
    base_overrides: tuple[str, ...] = ()


def read_study_file(path: Path, overrides: Sequence[str] = ()) -> StudyFile:
    """Read and check a study file.

    Args:
        path: The file.
        overrides: Assignments; `sweep.num_trials=4` is for the study, `train.max_steps=20` for the base of its trials.

    Raises:
        ConfigError: With one fault per wrong key or value.
    """
    document = read_document(path)
    if not isinstance(document, dict) or not isinstance(document.get("sweep"), dict):
        raise ConfigError(f"{path}: no study file; expected one section 'sweep' with base and space")
    for_study = [each for each in overrides if each.startswith("sweep.")]
    for override in for_study:
        _assign(document, override)
    others = [
        f"{key}: unknown section of a study file; settings of the runs belong into sweep.base" for key in document
    ]
    others = [fault for fault in others if not fault.startswith("sweep:")]
    try:
        section = SweepSection.model_validate(document["sweep"], strict=True)
    except ValidationError as error:
        raise ConfigError([*others, *_faults(error)]) from None
    if others:
        raise ConfigError(others)
    axes = read_space(section.space, needs_choices=section.method == "grid")
    for_base = tuple(each for each in overrides if each not in for_study)
    fixed = [f"{each}: the study tries values of this key" for each in for_base if _key(each) in section.space]
    fixed += [f"{each}: the study names its runs; give sweep.name" for each in for_base if _key(each) == "run.name"]
    if fixed:
        raise ConfigError(fixed)
    return StudyFile(section.name or path.stem, section, axes, for_base)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _assign(document: dict[str, Any], override: str) -> None:
    """Set `sweep.a.b=value` in the document; the section's own check finds wrong keys."""
    key, equals, text = override.partition("=")
    *steps, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"{override}: expected sweep.key=value, such as sweep.num_trials=4")
    target = document
    for step in steps:
        inner = target.get(step)
        target[step] = dict(inner) if isinstance(inner, dict) else {}
        target = target[step]
    target[last] = parse_document(text, override)


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for detail in error.errors(include_url=False):
        key = ".".join(["sweep", *(str(step) for step in detail["loc"] if step not in ("bool", "int"))])
        if detail["type"] == "extra_forbidden":
            owner = HalvingSection if key.startswith("sweep.halving.") else SweepSection
            names = list(owner.model_fields)
            allowed = f" Allowed: {', '.join(names)}."
            faults.append(f"{key}: unknown key.{suggest(str(detail['loc'][-1]), names) or allowed}")
        elif detail["type"] == "missing":
            faults.append(f"{key}: required and not given")
        elif key == "sweep":
            faults += [f"sweep.{line}" for line in detail["msg"].removeprefix("Value error, ").splitlines()]
        else:
            faults.append(f"{key}: {detail['msg'].removeprefix('Input ')}; got {detail['input']!r}")
    return list(dict.fromkeys(faults))
