"""The worst case before the first step: does the run fit into memory, and its checkpoint onto the disk?

Law: a probe leaves weights, optimizer and generators as they were; the run's result is the same with and without it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from loratory.engine import random_state
from loratory.engine.evaluate import Evaluator
from loratory.engine.forecast.memory import GIB, MIB
from loratory.engine.memory_budget import MemoryRoom, PassMemory, used_bytes
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.optimizer import NamedOptimizer
from loratory.engine.peak_memory import PeakMemory
from loratory.engine.ranks import Ranks
from loratory.engine.step import TrainStep, is_out_of_memory
from loratory.errors import ResourceError
from loratory.objective.row import Row
from loratory.run import CheckpointStore
from loratory.run.commit import seal, storage_faults
from loratory.run.stage import staging

# An estimate is trusted to this share when it alone ends a run, to spare it the kernel's out-of-memory killer.
_SURE_SHARE = 0.5
_TOKENS_STEP = 16


@dataclass(frozen=True, slots=True, eq=False)
class ProbeParts:
    """What a probe runs.

    Attributes:
        rows: Training rows.
        max_rows: Rows of one rank's share of a batch.
        micro_batching: How batches are cut.
        step: Whose backward pass is measured.
        evaluator: None without validation rows.
        parameters: Name -> trainable parameter.
        optimizer: Over these; it has not stepped yet.
        store: Where checkpoints will stand.
        write_checkpoint: Fills a checkpoint's stage.
        ranks: The processes.
        room: Memory before training.
        memory: The estimate of what a pass needs.
        base_bytes: Size of the base's weights, for advice.
    """

    rows: Sequence[Row]
    max_rows: int
    micro_batching: MicroBatching
    step: TrainStep
    evaluator: Evaluator | None
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: NamedOptimizer
    store: CheckpointStore
    write_checkpoint: Callable[[Path], None]
    ranks: Ranks
    room: MemoryRoom
    memory: PassMemory
    base_bytes: int


def run_probe(parts: ProbeParts) -> str:
    """Run the longest training pass, an optimizer step, the longest evaluation pass and a checkpoint; undo all of it.

    Returns:
        One line for the user.

    Raises:
        ResourceError: Memory or disk will not do; the message says what to change and to which value.
    """
    fault: ResourceError | None = None
    line = ""
    try:
        line = _Probe(parts).run()
    except ResourceError as error:
        fault = error
    if parts.ranks.any(fault is not None):
        raise fault or ResourceError("the probe failed in another process; its message says what to change")
    return line


class _Probe:
    def __init__(self, parts: ProbeParts) -> None:
        self._parts = parts
        self._device = parts.ranks.device
        self._optimizer = parts.optimizer.optimizer

    def run(self) -> str:
        parts = self._parts
        rows = parts.micro_batching.fullest(parts.rows, max_rows=parts.max_rows)
        generators = random_state.capture()
        try:
            peak = self._measured("training", rows, lambda: self._train(rows))
            evaluator = parts.evaluator
            if evaluator is not None and (longest := evaluator.largest_pass):
                peak = max(peak, self._measured("evaluation", longest, lambda: evaluator.score(longest)))
            checkpoint = self._checkpoint() if parts.ranks.is_main else ""
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            self._optimizer.state.clear()
            random_state.restore(generators)
        tokens = parts.micro_batching.num_tokens(rows)
        return f"probe: longest batch {tokens} tokens, peak {peak / GIB:.1f} GiB{checkpoint}"

    def _train(self, rows: Sequence[Row]) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._parts.step.backward(self._parts.step.batch(rows), sum(row.count for row in rows))
        with _kept(self._parts.parameters):
            self._optimizer.step()

    def _measured(self, role: str, rows: Sequence[Row], work: Callable[[], object]) -> int:
        """Peak memory of this work in bytes."""
        parts, limit = self._parts, self._parts.room.limit_bytes
        tokens = parts.micro_batching.num_tokens(rows)
        before = used_bytes(self._device)
        if role == "training":
            needed = before + int(_SURE_SHARE * (tokens * parts.memory.bytes_per_token))
            if needed > limit:
                raise self._fault(role, rows, f"would need at least {_size(needed)}", before, None)
        peak_memory = PeakMemory(self._device)
        try:
            work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._fault(role, rows, "ran out of memory", before, None) from error
        peak = peak_memory.read() or used_bytes(self._device)
        if peak > limit:
            raise self._fault(role, rows, f"took {_size(peak)}", before, (peak - before) / tokens)
        return peak

    def _fault(
        self, role: str, rows: Sequence[Row], what: str, before: int, bytes_per_token: float | None
    ) -> ResourceError:
        parts, room = self._parts, self._parts.room
        tokens = parts.micro_batching.num_tokens(rows)
        per_token = max(bytes_per_token or 0.0, parts.memory.bytes_per_token)
        fitting = int(max(0.0, room.limit_bytes - before) / per_token) // _TOKENS_STEP * _TOKENS_STEP
        allowed = "train.memory_budget_gib allows" if room.is_given else "there are"
        return ResourceError(
            f"probe: the longest {role} batch ({len(rows)} rows, {tokens} tokens) {what}; {allowed} "
            f"{_size(room.limit_bytes)}, of which {_size(before)} were in use before. Nothing was trained. "
            + _advice(rows, tokens, fitting=min(fitting, tokens - 1), base_bytes=parts.base_bytes)
        )

    def _checkpoint(self) -> str:
        """Write a checkpoint with full moments and remove it; a part of the line."""
        parts = self._parts
        start_s = time.perf_counter()
        told = f"Make room on the disk of {parts.store.root}."
        with (
            storage_faults(lambda fault: f"probe: a checkpoint could not be written ({fault}). {told}"),
            staging(parts.store.root) as stage,
        ):
            parts.write_checkpoint(stage)
            seal(stage)
            size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
        seconds = time.perf_counter() - start_s
        if not parts.store.has_room(size):
            raise ResourceError(
                f"probe: a checkpoint takes {_size(size)}, and the disk of {parts.store.root} has no room for two and "
                "the one being written. Make room, or choose another run.output_dir."
            )
        return f", checkpoint {_size(size)} in {seconds:.1f} s"


@contextmanager
def _kept(parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Put the values back at the end, bit for bit."""
    values = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])


def _advice(rows: Sequence[Row], tokens: int, *, fitting: int, base_bytes: int) -> str:
    longest = max(len(sequence) for row in rows for sequence in row.sequences)
    saved = _size(base_bytes * 3 // 4)
    ways = []
    if fitting >= _TOKENS_STEP and len(rows) > 1:
        ways.append(f"train.max_tokens_per_micro_batch={fitting} (the loss stays the same, it is only slower)")
    if fitting < longest or len(rows) == 1:
        ways.append("train.gradient_checkpointing=true (keeps only the layers' inputs)")
        if fitting >= _TOKENS_STEP:
            ways.append(f"data.cutoff_len={min(fitting, longest - 1)} (the longest row has {longest} tokens)")
        ways.append(f"quantization.load_in_4bit=true (saves up to {saved} of weights)")
    return "Set " + ", or ".join(ways) + "."


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB / 2 else f"{num_bytes / MIB:.1f} MiB"
