"""How many tokens a forward and backward pass may hold: memory that may be used over memory that a token needs.

An estimate from the model's shapes, made before anything runs; the probe then measures. It errs towards too much memory
per token.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from loratory.config.train import Optimizer
from loratory.engine.forecast.activations import kept_per_token
from loratory.engine.forecast.memory import GIB, LOGITS_COPIES, MIB, MOMENTS
from loratory.engine.forecast.model_size import model_size
from loratory.objective.row import Row

# A CPU's matrix units are busy from about 64 rows on, so more tokens per pass only cost memory there.
_CPU_MAX_TOKENS = 2048
_GPU_MAX_TOKENS = 8192
_MIN_TOKENS = 64
_DEFAULT_SHARE = 0.7
_SCRATCH_BYTES = 384 * MIB  # one buffer of logits (128) and what BLAS, the allocator and the last layer hold
_SAMPLED_ROWS = 1000
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """Memory of the training device as the run finds it, with the weights loaded.

    Attributes:
        used_bytes: In use by this process.
        budget_bytes: What passes, gradients and optimizer may take besides.
        limit_bytes: What the process may reach in all before the probe objects.
        is_given: The user set the budget.
    """

    used_bytes: int
    budget_bytes: int
    limit_bytes: int
    is_given: bool


@dataclass(frozen=True, slots=True)
class PassMemory:
    """What a training pass needs.

    Attributes:
        bytes_per_token: Kept for the backward pass, per token computed.
        fixed_bytes: Gradients, moments, their copy in a checkpoint, and buffers.
    """

    bytes_per_token: float
    fixed_bytes: int

    def num_tokens(self, room_bytes: float) -> int:
        """Tokens that fit into this much memory; may be 0."""
        return max(0, math.floor((room_bytes - self.fixed_bytes) / self.bytes_per_token))


def memory_room(device: torch.device, *, budget_gib: float | None, num_processes: int = 1) -> MemoryRoom:
    """Look at the device's memory.

    Args:
        device: Where the model is.
        budget_gib: Memory that this process may use in all; None: a share of what is free.
        num_processes: Processes of the run, which share a machine's memory; each GPU has its own.
    """
    used = used_bytes(device)
    if budget_gib is not None:
        limit = int(budget_gib * GIB)
        return MemoryRoom(used, max(0, limit - used), limit, is_given=True)
    free = _free_bytes(device) // (num_processes if device.type == "cpu" else 1)
    return MemoryRoom(used, int(free * _DEFAULT_SHARE), used + int(free * 0.95), is_given=False)


def used_bytes(device: torch.device) -> int:
    """Memory of the device that this process holds."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def label_share(rows: Sequence[Row], *, answer_tokens: int = 0) -> float:
    """Share of supervised tokens, from the first rows; `answer_tokens` are still to be added to each sequence."""
    sequences = [sequence for row in rows[:_SAMPLED_ROWS] for sequence in row.sequences]
    supervised = sum(s.num_supervised + answer_tokens for s in sequences)
    return supervised / max(1, sum(len(s) + answer_tokens for s in sequences))


def pass_memory(
    model: torch.nn.Module,
    base: PreTrainedModel,
    *,
    path: str,
    optimizer: Optimizer,
    supervised_share: float,
    gradient_checkpointing: bool,
    is_mixed: bool,
    on_cpu: bool,
) -> PassMemory:
    """Estimate from the model's shapes, by the memory model of `engine.forecast`.

    The fused layers keep their input, the outputs of their linear layers and the attention output: 0.67 MiB per token
    for SmolLM2-135M. Plain layers keep about twice that, and the padded path keeps logits too.

    Args:
        model: The model in training, adapter included.
        base: The transformers model in it.
        path: The scorer's path.
        optimizer: Decides the size of the moments.
        supervised_share: Share of tokens with a label.
        gradient_checkpointing: Only the layers' inputs are kept, and one layer's inside.
        is_mixed: Autocast: activations of either width.
        on_cpu: The device is no GPU.
    """
    size = model_size(model, base)
    kept = kept_per_token(
        base, size, path=path, gradient_checkpointing=gradient_checkpointing, is_mixed=is_mixed, on_cpu=on_cpu
    )
    logits = 0.0
    if path == "padded":
        logits = LOGITS_COPIES * 4 * size.vocabulary * min(1.0, 2 * supervised_share)
    fixed = int(size.trained_bytes * (2 + 2 * MOMENTS[optimizer])) + _SCRATCH_BYTES
    return PassMemory(kept.kept_bytes + kept.moment_bytes + logits, fixed)


def max_pass_tokens(memory: PassMemory, room: MemoryRoom, device: torch.device) -> int:
    """Token budget of a pass: a power of two, so that small changes of free memory do not change it.

    It is at least 64, whether or not that fits: the probe says so if it does not.
    """
    cap = _CPU_MAX_TOKENS if device.type == "cpu" else _GPU_MAX_TOKENS
    fitting = memory.num_tokens(room.budget_bytes)
    return min(cap, 1 << (max(fitting, _MIN_TOKENS).bit_length() - 1))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = int(psutil.virtual_memory().available)
    for limit_file, used_file in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            free = min(free, int(Path(limit_file).read_text()) - int(Path(used_file).read_text()))
    return max(0, free)
