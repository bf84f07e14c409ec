"""The processes of a run: who I am, sums over all, and gradients added up once per step.

Gradients are not averaged by a wrapper around the model: every rank adds what its rows give, and one sum per step
makes the whole. So ranks may have different numbers of forward passes, or none, and the loss stays the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

_LONG = timedelta(days=7)


class Ranks:
    """A thin face of `accelerate` with the few operations that the loop needs."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.index: int = accelerator.process_index
        self.num: int = accelerator.num_processes
        self.device: torch.device = accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes."""
        return self.index == 0

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This rank's part of a batch: every num-th item."""
        return list(items[self.index :: self.num])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over ranks, in fp64."""
        if self.num == 1:
            return list(values)
        total = self._accelerator.reduce(
            torch.tensor(list(values), dtype=torch.float64, device=self.device), reduction="sum"
        )
        return [float(v) for v in total.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank; the same answer everywhere."""
        return self.sum([float(flag)])[0] > 0

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients of all ranks, in place, one message per dtype."""
        if self.num == 1:
            return
        by_dtype: dict[torch.dtype, list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
        for members in by_dtype.values():
            flat = torch.cat([p.grad.reshape(-1) for p in members if p.grad is not None])
            total = self._accelerator.reduce(flat, reduction="sum")
            for parameter, part in zip(members, total.split([p.numel() for p in members]), strict=True):
                parameter.grad = part.view_as(parameter).clone()

    def copy_from_main(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every rank the main rank's values."""
        if self.num > 1:
            for parameter in parameters:
                parameter.data.copy_(broadcast(parameter.data))

    def gather(self, item: Any) -> list[Any]:
        """The items of all ranks, in rank order, on every rank."""
        return list(gather_object([item])) if self.num > 1 else [item]

    def wait(self) -> None:
        """Barrier."""
        self._accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main rank runs the block first, the others when it is done or has failed.

        They wait in a group of their own on the CPU, so that long work does not run into the time limit that the
        device's collectives have.
        """
        if self.num == 1:
            yield
            return
        group = torch.distributed.new_group(backend="gloo", timeout=_LONG)
        try:
            if not self.is_main:
                torch.distributed.barrier(group)
            yield
        finally:
            if self.is_main:
                torch.distributed.barrier(group)
            torch.distributed.destroy_process_group(group)
