"""The space of a study: what each key of the run file may be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from loratory.config.fields import field_of, suggest_key
from loratory.errors import ConfigError, suggest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
"""Key -> value of one candidate."""
_RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and its values: choices, or a range.

    Attributes:
        key: Dotted key of the run file.
        choices: The values; empty for a range.
        low: Least value of a range.
        high: Greatest value.
        log: Draw by the logarithm.
        step: Distance of the values; None: any.
        is_integer: Whole numbers only.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    is_integer: bool = False

    def ends(self) -> tuple[Any, ...]:
        """Values whose validity stands for that of the axis."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.is_integer else (self.low, self.high)

    def distribution(self) -> "BaseDistribution":
        """The axis as Optuna knows it; choices that are no scalars are JSON text there."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution([encode(value) for value in self.choices])
        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def decode(self, value: Any) -> Any:
        """The choice that Optuna's value stands for."""
        return next((choice for choice in self.choices if encode(choice) == value), value)

    def draw(self, generator: np.random.Generator) -> Any:
        """A random value."""
        if self.choices:
            return self.choices[int(generator.integers(len(self.choices)))]
        if self.log:
            value = float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
        else:
            value = float(generator.uniform(self.low, self.high))
        if self.is_integer:
            step = int(self.step or 1)
            value = int(self.low) + round((value - self.low) / step) * step
        elif self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
        return min(max(value, self.ends()[0]), self.ends()[1])


def encode(value: Any) -> Any:
    """A value that Optuna stores: scalars as they are, the rest as JSON."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)


def read_space(raw: Mapping[str, Any], *, needs_choices: bool) -> tuple[Axis, ...]:
    """Check the `space` of a study file.

    Args:
        raw: Key -> list of values, or mapping with low and high.
        needs_choices: A grid has no ranges.

    Raises:
        ConfigError: With one fault per wrong axis.
    """
    faults: list[str] = []
    axes = [_axis(key, value, faults, needs_choices=needs_choices) for key, value in raw.items()]
    if not axes:
        faults.append("sweep.space: empty; name at least one key, such as adapter.rank: [4, 8, 16]")
    if faults:
        raise ConfigError(faults)
    return tuple(axis for axis in axes if axis is not None)


def _axis(key: str, raw: Any, faults: list[str], *, needs_choices: bool) -> Axis | None:
    where, before = f"sweep.space.{key}", len(faults)
    field = field_of(key)
    if field is None or (key != field.key and not field.is_mapping):
        faults.append(f"{where}: no key of a run file.{suggest_key(key)}")
    elif field.section == "run" or key == "train.seed":
        faults.append(f"{where}: the study itself sets this; give sweep.{'seeds' if 'seed' in key else 'name'}")
    if isinstance(raw, list):
        texts = [json.dumps(value, sort_keys=True) for value in raw]
        if not raw or len(set(texts)) < len(texts):
            faults.append(f"{where}: expected different values; got {raw}")
        return Axis(key, tuple(raw)) if len(faults) == before else None
    if not isinstance(raw, dict):
        faults.append(f"{where}: expected a list of values or a mapping with low and high; got {raw!r}")
        return None
    for name in raw.keys() - set(_RANGE_KEYS):
        faults.append(f"{where}.{name}: unknown key.{suggest(name, _RANGE_KEYS)} Allowed: {', '.join(_RANGE_KEYS)}.")
    if needs_choices:
        faults.append(f"{where}: a grid needs a list of values; give one, or method: random or tpe")
    low: Any = raw.get("low")
    high: Any = raw.get("high")
    step: Any = raw.get("step")
    if not (_is_number(low) and _is_number(high) and low < high):
        faults.append(f"{where}: low and high must be numbers, low below high; got {low!r}, {high!r}")
        return None
    if not isinstance(raw.get("log", False), bool) or (step is not None and not (_is_number(step) and step > 0)):
        faults.append(f"{where}: log is true or false, step a positive number; got {raw}")
    if raw.get("log") is True and (low <= 0 or step is not None):
        faults.append(f"{where}: log: true needs low above 0 and no step; got {raw}")
    if len(faults) > before:
        return None
    is_integer = isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None)
    return Axis(key, (), low, high, bool(raw.get("log", False)), step, is_integer)


def grid(axes: Sequence[Axis]) -> list[Params]:
    """Every combination, the last axis fastest."""
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, values, strict=True)) for values in product(*(axis.choices for axis in axes))]


def draws(axes: Sequence[Axis], count: int, *, seed: int) -> list[Params]:
    """Random candidates; the first n of a longer list are those of a shorter one."""
    generators = (np.random.default_rng([seed, index]) for index in range(count))
    return [{axis.key: axis.draw(generator) for axis in axes} for generator in generators]


def corners(axes: Sequence[Axis]) -> list[Params]:
    """Candidates that show every end and choice of every axis, one axis at a time."""
    first = {axis.key: axis.ends()[0] for axis in axes}
    return [{**first, axis.key: value} for axis in axes for value in axis.ends()]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
