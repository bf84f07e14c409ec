"""What a machine can do, as figures, and the file in the user's cache that keeps them. `loratory.plan` measures."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch

from loratory.model.cache import default_cache_dir
from loratory.run.commit import write_text

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rate:
    """Speed of a matrix product of `rows` rows, `width` wide on its longer sides, in FLOP/s."""

    rows: int
    width: int
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class PathPace:
    """What a scorer's path costs besides its matrix products.

    Attributes:
        layer_s: Per layer and pass.
        float_s: Per number that a token keeps: norms, rotation, activation, sums, copies.
    """

    layer_s: float
    float_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Figures of a machine, measured, or taken from a data sheet.

    Attributes:
        name: For people.
        fingerprint: What they hold for; see `fingerprint`.
        process_bytes: Memory of a training process before its model is loaded.
        gemm: Products with the frozen weights.
        thin: Products with an adapter's matrices; `rows` is the rank.
        attention_flops_per_s: Products inside attention.
        bandwidth_bytes_per_s: Of memory.
        paths: By path.
        step_s: Per optimizer step.
        tensor_s: Per trained tensor and step.
    """

    name: str
    fingerprint: str
    process_bytes: int
    gemm: tuple[Rate, ...]
    thin: tuple[Rate, ...]
    attention_flops_per_s: float
    bandwidth_bytes_per_s: float
    paths: Mapping[str, PathPace]
    step_s: float
    tensor_s: float


def fingerprint(num_threads: int) -> str:
    """Digest of what the figures of this machine depend on: processor, cores, threads, torch."""
    facts = [platform.machine(), _processor(), str(torch.get_num_interop_threads()), str(num_threads)]
    facts += [torch.__version__, torch.__config__.parallel_info().splitlines()[0]]
    if torch.cuda.is_available():
        facts.append(torch.cuda.get_device_name())
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def machine_file(num_threads: int) -> Path:
    """Where this machine's figures are kept."""
    return default_cache_dir() / "machines" / f"{fingerprint(num_threads)}.json"


def read_machine(num_threads: int) -> Machine | None:
    """This machine's figures, if they have been measured; a damaged file counts as none."""
    try:
        found = json.loads(machine_file(num_threads).read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            return None
        gemm, thin = (tuple(Rate(**rate) for rate in found.pop(key)) for key in ("gemm", "thin"))
        paths = {name: PathPace(**pace) for name, pace in found.pop("paths").items()}
        return Machine(**found, gemm=gemm, thin=thin, paths=paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_machine(machine: Machine, num_threads: int) -> Path:
    """Keep the figures."""
    path = machine_file(num_threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"format": FORMAT, **asdict(machine)}, indent=1) + "\n")
    return path


def rate_at(rates: Sequence[Rate], rows: float, width: float) -> float:
    """Speed between the measured sizes: linear in the logarithms, and as at the edge beyond it."""
    table: dict[int, dict[int, float]] = {}
    for rate in rates:
        table.setdefault(rate.rows, {})[rate.width] = rate.flops_per_s
    return _between({key: _between(by_width, width) for key, by_width in table.items()}, rows)


def _between(points: Mapping[int, float], place: float) -> float:
    keys = sorted(points)
    if place <= keys[0]:
        return points[keys[0]]
    for low, high in pairwise(keys):
        if place <= high:
            share = math.log(place / low) / math.log(high / low)
            return math.exp((1 - share) * math.log(points[low]) + share * math.log(points[high]))
    return points[keys[-1]]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
