"""The policy as it starts: log-probabilities of the rows, computed once and kept on disk, or a scorer of it on call.

As it starts means with the adapter in place: a new adapter does nothing yet, one that is continued counts, and an
initialisation that moves weights between base and adapter (PiSSA, OLoRA) is taken as the whole that it is.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from loratory.engine.micro_batching import MicroBatching
from loratory.engine.precision import autocast
from loratory.engine.prepare import PreparedRows
from loratory.engine.ranks import Ranks
from loratory.errors import NumericsError, RunError
from loratory.objective.row import Row
from loratory.run.commit import publish_directory
from loratory.tree.build import build_tree
from loratory.tree.scorer import Scorer

REFERENCE_NATS = "reference_nats"
CACHE_NAME = ".reference"
_FILE = "nats.safetensors"


class StartingPolicy:
    """Gives a scorer of the policy as it was when this object was made, while the model goes on learning.

    Where the adapter did nothing at the start it is switched off, which is cheaper; otherwise the trained tensors of
    the start are kept and put in place for as long as the scorer is used.

    Args:
        model: The model before its first step.
        scorer: Of this model; it must read weights anew on every call.
        parameters: Name -> everything that is trained.
        is_no_op: The adapter does nothing yet.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        scorer: Scorer,
        *,
        parameters: Mapping[str, torch.nn.Parameter],
        is_no_op: bool,
    ) -> None:
        self._model = model
        self._scorer = scorer
        self._parameters = parameters
        self._is_switched_off = is_no_op and isinstance(model, PeftModel)
        self._start = {} if self._is_switched_off else {n: p.detach().clone() for n, p in parameters.items()}

    @contextmanager
    def scorer(self) -> Iterator[Scorer]:
        """A scorer of the start, without gradient; afterwards the model is what it was."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self._in_place():
                yield self._scorer
        finally:
            self._model.train(was_training)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        if self._is_switched_off:
            assert isinstance(self._model, PeftModel)
            with self._model.disable_adapter():
                yield
            return
        now = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self._start[name]
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = now[name]


def add_reference(
    rows: PreparedRows,
    model: torch.nn.Module,
    scorer: Scorer,
    *,
    micro_batching: MicroBatching,
    autocast_dtype: torch.dtype | None,
    ranks: Ranks,
    folder: Path,
    policy_digest: str,
    note: Callable[[str], None],
) -> PreparedRows:
    """Rows with `facts["reference_nats"]`: the weighted log-probability of each sequence, then of each companion.

    They are computed under the model as it is.

    Args:
        rows: Training and validation rows.
        model: The policy before its first step.
        scorer: Of this model.
        micro_batching: How many tokens a pass takes.
        autocast_dtype: Mixed precision of the passes.
        ranks: Each computes its share.
        folder: Where the cache lies; an entry is named by its content: policy, rows, precision.
        policy_digest: What names the policy: base and adapter.
        note: Shows one line.

    Raises:
        NumericsError: A log-probability is not finite.
    """
    whole = [*rows.train, *rows.validation]
    entry = folder / _digest(whole, policy_digest, str(autocast_dtype))
    nats = _read(entry, whole)
    if nats is None:
        nats = _score(whole, model, scorer, micro_batching, autocast_dtype, ranks)
        if ranks.is_main:
            _store(entry, nats, note)
    else:
        note("reference log-probabilities: from the cache")
    done = [replace(row, facts={**row.facts, REFERENCE_NATS: own}) for row, own in zip(whole, nats, strict=True)]
    num_train = len(rows.train)
    return replace(rows, train=tuple(done[:num_train]), validation=tuple(done[num_train:]))


def parameters_digest(parameters: Mapping[str, torch.nn.Parameter]) -> str:
    """sha256 over names and values of trained tensors."""
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _score(
    rows: Sequence[Row],
    model: torch.nn.Module,
    scorer: Scorer,
    micro_batching: MicroBatching,
    autocast_dtype: torch.dtype | None,
    ranks: Ranks,
) -> list[npt.NDArray[np.float64]]:
    """Longest rows first, so that a pass that does not fit fails at once; results in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i].num_tokens)
    mine = ranks.share(order)
    found: dict[int, npt.NDArray[np.float64]] = {}
    was_training = model.training
    model.eval()
    try:
        done = 0
        for part in micro_batching.cut([rows[i] for i in mine]):
            tree = build_tree([sequence for row in part for sequence in (*row.sequences, *row.companions)])
            with torch.no_grad(), autocast(ranks.device, autocast_dtype):
                nats_S = tree.sum_by_sequence(scorer.logprobs(tree).double().cpu())
            for row in part:
                num_own = len(row.sequences) + len(row.companions)
                own, nats_S = nats_S[:num_own], nats_S[num_own:]
                if not bool(torch.isfinite(own).all()):
                    raise NumericsError(
                        f"{row.origin}: the reference log-probability is not finite. Use float32 (model.dtype, "
                        "train.precision), or look at this row."
                    )
                found[mine[done]] = own.numpy().astype(np.float64)
                done += 1
    finally:
        model.train(was_training)
    everything = {index: value for part in ranks.gather(found) for index, value in part.items()}
    return [everything[index] for index in range(len(rows))]


def _digest(rows: Sequence[Row], policy_digest: str, precision: str) -> str:
    digest = hashlib.sha256(f"1 {policy_digest} {precision}".encode())
    for row in rows:
        for sequence in (*row.sequences, *row.companions):
            digest.update(np.int64(len(sequence)).tobytes())
            digest.update(sequence.token_ids.tobytes())
            digest.update(sequence.weights.tobytes())
    return digest.hexdigest()


def _store(entry: Path, nats: Sequence[npt.NDArray[np.float64]], note: Callable[[str], None]) -> None:
    tensor = torch.from_numpy(np.concatenate(nats))
    try:
        publish_directory(entry, lambda stage: save_file({"nats": tensor}, stage / _FILE))
    except RunError:
        return  # another process was faster
    except OSError as error:
        note(f"reference log-probabilities were not kept in {entry.parent}: {error.strerror or error}")


def _read(entry: Path, rows: Sequence[Row]) -> list[npt.NDArray[np.float64]] | None:
    try:
        flat = load_file(entry / _FILE)["nats"].numpy()
    except (OSError, SafetensorError, KeyError):
        return None
    ends = np.cumsum([len(row.sequences) + len(row.companions) for row in rows])
    if len(flat) != ends[-1] or not np.isfinite(flat).all():
        return None
    return list(np.split(flat, ends[:-1]))
