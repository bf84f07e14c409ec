"""The files of a checkpoint that make resume exact: weights, moments, generators, progress. safetensors and JSON only.

Names, not positions, key everything, so that a changed model is noticed and never silently misread.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.progress import Progress
from loratory.engine.random_state import RandomState
from loratory.errors import IntegrityError, NumericsError

OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_NUMBERS = "optimizer.json"
RANDOM_TENSORS = "random.safetensors"
TRAINING_STATE = "training_state.json"
_SEPARATOR = "//"
_GROUP_KEYS = ("peak_lr", "weight_decay")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What stands in a checkpoint besides weights and moments.

    Attributes:
        progress: Where the run stands.
        random: Generators of each rank.
        identity: What had to be equal on resume, in full, to be able to list differences.
    """

    progress: Progress
    random: Sequence[RandomState]
    identity: Mapping[str, object]


def save_weights(path: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Write the trained tensors exactly as they are.

    Raises:
        NumericsError: One of them is not finite; nothing non-finite is ever saved.
    """
    bad = [name for name, p in parameters.items() if not bool(torch.isfinite(p.detach()).all())]
    if bad:
        raise NumericsError(f"{len(bad)} trained tensors are not finite, nothing was saved: {', '.join(bad[:5])}")
    save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, path, metadata={"format": "pt"})


def load_weights(path: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Copy saved tensors into the model's own, in place.

    Raises:
        IntegrityError: Names, shapes or dtypes differ.
    """
    saved = load_file(path)
    faults = [f"{n}: only in the model" for n in parameters.keys() - saved.keys()]
    faults += [f"{n}: only in the checkpoint" for n in saved.keys() - parameters.keys()]
    for name in parameters.keys() & saved.keys():
        have, want = saved[name], parameters[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            faults.append(f"{name}: {have.dtype} {list(have.shape)}, the model has {want.dtype} {list(want.shape)}")
    if faults:
        raise IntegrityError(f"{path} does not fit the model:\n" + "\n".join(sorted(faults)[:10]))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def save_optimizer(folder: Path, named: NamedOptimizer) -> None:
    """Write the optimizer's moments by parameter name."""
    state = named.optimizer.state_dict()
    leaves = [leaf for index, entries in state["state"].items() for leaf in _leaves(entries, named.names[index])]
    numbers = {path: value for path, value in leaves if not isinstance(value, torch.Tensor)}
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for path, value in leaves:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            storage = tensor.untyped_storage().data_ptr()
            # 8-bit moments share their code tables, which the format forbids; all else is written from where it is.
            tensors[path] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
    groups = [{key: group[key] for key in _GROUP_KEYS} for group in state["param_groups"]]
    save_file(tensors, folder / OPTIMIZER_TENSORS)
    content = {"names": list(named.names), "numbers": numbers, "groups": groups}
    (folder / OPTIMIZER_NUMBERS).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_optimizer(folder: Path, named: NamedOptimizer) -> None:
    """Read moments back.

    Raises:
        IntegrityError: The optimizer numbers other parameters.
    """
    content = json.loads((folder / OPTIMIZER_NUMBERS).read_text(encoding="utf-8"))
    if content["names"] != list(named.names):
        raise IntegrityError(f"{folder}: the optimizer state belongs to other parameters")
    leaves: dict[str, object] = {**load_file(folder / OPTIMIZER_TENSORS), **content["numbers"]}
    by_name: dict[str, dict[str, object]] = {}
    for key, value in leaves.items():
        name, *inner, last = key.split(_SEPARATOR)
        target = by_name.setdefault(name, {})
        for part in inner:
            target = target.setdefault(part, {})  # type: ignore[assignment]
        target[last] = value
    state = named.optimizer.state_dict()
    state["state"] = {i: by_name[name] for i, name in enumerate(named.names) if name in by_name}
    named.optimizer.load_state_dict(state)


def save_training_state(folder: Path, state: TrainingState) -> None:
    """Write progress and generators."""
    tensors = {f"rank{i}.{name}": t for i, r in enumerate(state.random) for name, t in r.tensors.items()}
    save_file(tensors, folder / RANDOM_TENSORS)
    content = {
        "progress": state.progress.to_json(),
        "random": [r.numbers for r in state.random],
        "identity": dict(state.identity),
    }
    (folder / TRAINING_STATE).write_text(json.dumps(content), encoding="utf-8")


def load_training_state(folder: Path) -> TrainingState:
    """Read progress and generators."""
    content = json.loads((folder / TRAINING_STATE).read_text(encoding="utf-8"))
    tensors = load_file(folder / RANDOM_TENSORS)
    states = []
    for index, numbers in enumerate(content["random"]):
        prefix = f"rank{index}."
        mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        states.append(RandomState(numbers, mine))
    return TrainingState(Progress.from_json(content["progress"]), states, content["identity"])


def _leaves(entries: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in entries.items():
        path = f"{prefix}{_SEPARATOR}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value
