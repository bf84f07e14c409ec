"""The random generators of a process as JSON and tensors: python, numpy, torch, CUDA. No pickle."""

import random
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True, slots=True, eq=False)
class RandomState:
    """State of all generators of one process at a step boundary.

    Attributes:
        numbers: JSON-able states of python and numpy.
        tensors: uint8 states of torch: "cpu", "cuda0", …
    """

    numbers: dict[str, object]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> RandomState:
    """Read the state of all generators."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda{i}": state.cpu() for i, state in enumerate(torch.cuda.get_rng_state_all())}
    numbers: dict[str, object] = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), [int(k) for k in np.asarray(keys)], int(position), int(has_gauss), float(cached)],
    }
    return RandomState(numbers, tensors)


def restore(state: RandomState) -> None:
    """Put all generators back; CUDA devices that are not there any more are left out."""
    version, words, gauss = state.numbers["python"]  # type: ignore[misc]
    random.setstate((version, tuple(words), gauss))  # type: ignore[has-type]
    kind, keys, position, has_gauss, cached = state.numbers["numpy"]  # type: ignore[misc]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # type: ignore[has-type]
    torch.set_rng_state(state.tensors["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if (name := f"cuda{index}") in state.tensors:
                torch.cuda.set_rng_state(state.tensors[name], index)
