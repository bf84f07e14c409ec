"""How long training would take, from a former run's measured rate or, without one, from a rough figure."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

from loratory.errors import RunError

_MAX_HEADER_BYTES = 100_000_000
FLOPS_LOW, FLOPS_HIGH = 2e10, 4e11
"""Sustained floating-point operations per second of two to eight CPU cores training in fp32; a GPU does far more."""


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """An estimated training time.

    Attributes:
        low_s: Shortest, in seconds.
        high_s: Longest.
        basis: How the figures were got.
    """

    low_s: float
    high_s: float
    basis: str


def estimate_from_run(num_tokens: int, metrics: Path) -> TimeEstimate:
    """Time for a number of tokens at the rate that a former run logged.

    Args:
        num_tokens: Tokens to train on, all epochs together.
        metrics: The run's metrics.jsonl.

    Raises:
        RunError: The file is not there or holds no rate.
    """
    rates = measured_rates(metrics)
    if not rates:
        raise RunError(f"{metrics}: no line with 'tokens_per_s'; give the metrics.jsonl of a finished run")
    rates.sort()
    slow, fast = rates[len(rates) // 10], rates[-1 - len(rates) // 10]
    return TimeEstimate(
        num_tokens / fast,
        num_tokens / slow,
        f"{metrics}: {median(rates):,.0f} tokens/s at its median over {len(rates)} steps, "
        "range between its 10th and 90th percentile",
    )


def rough_estimate(num_tokens: int, num_parameters: int) -> TimeEstimate:
    """Time by rule of thumb: 6 operations per parameter and token, at 20 to 400 GFLOP/s.

    Args:
        num_tokens: Tokens to train on, all epochs together.
        num_parameters: Parameters of the base model.
    """
    operations = 6.0 * num_parameters * num_tokens
    return TimeEstimate(
        operations / FLOPS_HIGH,
        operations / FLOPS_LOW,
        f"rule of thumb, not measured: 6 operations per parameter and token, {num_parameters:,} parameters, a CPU of "
        "20 to 400 GFLOP/s. Give --run of a former run for a measured rate",
    )


def measured_rates(metrics: Path) -> list[float]:
    """The rates in tokens per second that a run logged."""
    if not metrics.is_file():
        raise RunError(f"{metrics}: no such file; a run directory holds metrics.jsonl")
    rates = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        rate = entry.get("tokens_per_s") if isinstance(entry, dict) else None
        if isinstance(rate, int | float) and rate > 0:
            rates.append(float(rate))
    return rates


def parameter_count(folder: Path) -> int | None:
    """Parameters in a model folder by the headers of its safetensors files; None if it has none."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _MAX_HEADER_BYTES:
                return None
            header = json.loads(stream.read(size))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None
