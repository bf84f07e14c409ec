"""Log-likelihoods of continuations: every context once, its continuations below it.

Requests are sorted by their tokens, so that the choices of a document, and documents with a common beginning, stand
side by side and become branches of one tree. Not lm-eval's: plain token ids in, numbers out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.engine.memory_budget import memory_room
from loratory.errors import ConfigError, DataError, NumericsError
from loratory.tree.build import build_tree
from loratory.tree.eligibility import base_of
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import ScorerPath, make_scorer
from loratory.tree.tree import TokenTree

# From here on more tokens in a batch only cost memory: a CPU's matrix units are busy, and its caches overflow.
_CPU_MAX_TOKENS = 2048
_GPU_MAX_TOKENS = 16384
_MIN_TOKENS = 256
_MEMORY_SHARE = 0.5
# A batch may end this much before its budget is used up, to end between two documents.
_SLACK = 0.25

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens to score, and the tokens before them.

    Attributes:
        context_ids: At least one token.
        token_ids: At least one token; each one's likelihood is taken given all before it.
        name: What error messages call it.
    """

    context_ids: Sequence[int]
    token_ids: Sequence[int]
    name: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The score of a continuation.

    Attributes:
        logprob_nats: Sum of the tokens' log-probabilities.
        is_greedy: Greedy decoding from the context would give these tokens.
    """

    logprob_nats: float
    is_greedy: bool


class LikelihoodScorer:
    """Scores continuations under a model, whose mode and gradients flags are left as they were.

    Args:
        model: A causal language model, with or without an adapter.
        max_length: Most tokens of a model input; longer contexts lose tokens on the left, as in lm-eval.
        max_batch_tokens: Token budget of a batch; None: from free memory.
        path: How the tree is computed.

    Attributes:
        scorer_path: The path taken by the last call of `score`.
        num_truncated: Continuations so far whose context was cut.

    Raises:
        ConfigError: When `max_length` or `max_batch_tokens` is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        max_length: int,
        max_batch_tokens: int | None = None,
        path: ScorerPath = "auto",
    ) -> None:
        faults = [
            f"{name}: got {value}; it must be at least 1"
            for name, value in (("max_length", max_length), ("max_batch_tokens", max_batch_tokens))
            if value is not None and value < 1
        ]
        if faults:
            raise ConfigError(faults)
        self._model = model
        self._max_length = max_length
        self._max_batch_tokens = max_batch_tokens
        self._path = path
        self.scorer_path = ""
        self.num_truncated = 0

    def score(
        self, requests: Sequence[Continuation], *, on_progress: Callable[[int], None] | None = None
    ) -> list[Likelihood]:
        """Score continuations.

        Args:
            requests: What to score, in any order.
            on_progress: Called with the number of finished requests, batch by batch.

        Returns:
            One result for each request, in the order of the requests.

        Raises:
            DataError: When a continuation has no tokens, or more than the model's context.
            NumericsError: When a log-probability is not finite.
        """
        sequences = [self._sequence(request) for request in requests]
        results: list[Likelihood | None] = [None] * len(requests)
        num_done = 0
        with _evaluating(self._model):
            scorer = make_scorer(self._model, path=self._path)
            self.scorer_path = scorer.path
            budget = self._max_batch_tokens or default_batch_tokens(self._model, scorer.path)
            batches = list(token_batches([s.token_ids for s in sequences], budget, shares=scorer.path != "padded"))
            trees = [build_tree([sequences[index] for index in batch]) for batch in batches]
            with scorer.one_root(trees) if scorer.path != "padded" else nullcontext():
                for batch, tree in zip(batches, trees, strict=True):
                    for index, result in zip(batch, _score_tree(scorer, tree), strict=True):
                        if not np.isfinite(result.logprob_nats):
                            raise NumericsError(
                                f"{requests[index].name}: the log-likelihood is {result.logprob_nats}; the model's "
                                "weights or activations are not finite"
                            )
                        results[index] = result
                    num_done += len(batch)
                    if on_progress is not None:
                        on_progress(num_done)
        return [result for result in results if result is not None]

    def _sequence(self, request: Continuation) -> TokenSequence:
        num_tokens = len(request.token_ids)
        if num_tokens == 0 or len(request.context_ids) == 0:
            empty = "continuation" if num_tokens == 0 else "context"
            raise DataError(f"{request.name}: the {empty} has no tokens; at least one is needed to score it")
        if num_tokens > self._max_length:
            raise DataError(
                f"{request.name}: the continuation has {num_tokens} tokens, the model's context is {self._max_length}. "
                "Take the document out or use a model with a longer context"
            )
        ids = np.array([*request.context_ids, *request.token_ids], dtype=np.int64)
        self.num_truncated += len(ids) > self._max_length + 1
        ids = ids[-(self._max_length + 1) :]
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[-num_tokens:] = 1
        return TokenSequence(ids, weights, len(ids) - num_tokens)


def default_batch_tokens(model: PreTrainedModel | PeftModel, path: str) -> int:
    """Token budget of a batch without gradients: half of the free memory over what a token needs, within bounds."""
    base = base_of(model)
    config = base.config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    floats = 16 * width + 4 * inner  # one layer's inside; what the layers before it made is gone
    if path == "padded":
        floats += 3 * int(config.vocab_size)
    room = memory_room(base.device, budget_gib=None).budget_bytes * _MEMORY_SHARE
    cap = _CPU_MAX_TOKENS if base.device.type == "cpu" else _GPU_MAX_TOKENS
    return max(_MIN_TOKENS, min(cap, int(room / (floats * max(4, base.dtype.itemsize)))))


def token_batches(rows: Sequence[IntArray], budget: int, *, shares: bool) -> Iterator[list[int]]:
    """Cut rows into batches.

    Args:
        rows: Token ids.
        budget: Most tokens of a batch; a row longer than it is a batch of its own.
        shares: Common prefixes count once: rows are sorted by their tokens, and a batch ends where its last rows have
            least in common with the next ones. Otherwise rows are sorted by length and padding counts.

    Yields:
        Indices of the rows of a batch.
    """
    if not shares:
        yield from _padded_batches([len(row) for row in rows], budget)
        return
    order = sorted(range(len(rows)), key=lambda index: rows[index].astype(">u4").tobytes())
    common = [0, *(_common_length(rows[a], rows[b]) for a, b in pairwise(order))]
    start = 0
    while start < len(order):
        used, stop, sizes = 0, start, []
        while stop < len(order):
            own = len(rows[order[stop]]) - (common[stop] if stop > start else 0)
            if stop > start and used + own > budget:
                break
            used += own
            sizes.append(used)
            stop += 1
        if stop < len(order):
            cuts = [cut for cut in range(start + 1, stop + 1) if sizes[cut - start - 1] >= (1 - _SLACK) * used]
            stop = min(reversed(cuts), key=lambda cut: common[cut])
        yield order[start:stop]
        start = stop


def _padded_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        num_rows = max(1, budget // lengths[order[start]])
        yield order[start : start + num_rows]
        start += num_rows


def _common_length(left: IntArray, right: IntArray) -> int:
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length


def _score_tree(scorer: Scorer, tree: TokenTree) -> list[Likelihood]:
    scores = scorer.label_scores(tree)
    logprobs = tree.sum_by_sequence(scores.logprobs_N.cpu())
    misses = tree.sum_by_sequence((~scores.is_top_N).float().cpu())
    return [Likelihood(value, missed == 0) for value, missed in zip(logprobs.tolist(), misses.tolist(), strict=True)]


@contextmanager
def _evaluating(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Without dropout and gradients. Weights that want gradients would keep a merged model from the fused layers."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, was_training in modes:
            module.training = was_training
