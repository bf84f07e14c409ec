"""Closed sets of answers: the likeliest label of each prompt by exact sequence log-probability, stop token included.

Two ways to the same numbers. Where only the best label is wanted and the model's layers can be computed on flat
tokens, a search takes the parts of the label trie that can still win. Everywhere else, and where the numbers of all
labels are wanted, the tree engine scores the whole trie below each prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.data.sequence import TokenSequence
from loratory.errors import ConfigError, DataError
from loratory.infer.flat.labels import search_flat
from loratory.infer.flat.model import FlatModel, flat_refusal
from loratory.infer.generate import context_length, inference_mode
from loratory.infer.label_set import LabelSet, build_trie
from loratory.infer.rows_at_once import rows_at_once
from loratory.tree.build import build_tree
from loratory.tree.scorers import ScorerPath, make_scorer

MAX_TREE_TOKENS = 4096
"""Tokens of one pass over label tries."""

_MAX_LOGIT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """The likeliest label of a prompt.

    Attributes:
        label: Its index.
        logprob: Its log-probability in nats, stop token included.
    """

    label: int
    logprob: float


def choose_labels(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelSet,
    *,
    batch_size: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[LabelChoice]:
    """The likeliest label of each prompt; of equally likely ones the first.

    Args:
        model: A causal language model, plain or with a PEFT adapter; left as it was.
        prompts: Token ids, at least one per prompt.
        labels: The closed set.
        batch_size: Rows side by side; None: what memory allows.
        on_progress: Called with the number of finished rows.
        names: What error messages call the prompts.

    Raises:
        DataError: A prompt is empty, or it and the longest label pass the model's context.
        ConfigError: `batch_size` is below 1.
    """
    _check(model, prompts, labels, batch_size, names)
    longest = max(map(len, prompts), default=0) + labels.longest
    with inference_mode(model):
        if not prompts:
            return []
        if flat_refusal(model, longest=longest) is None:
            batch_size = batch_size or rows_at_once(model, longest_tokens=longest, is_padded=False)
            found = search_flat(FlatModel(model), prompts, labels, batch_size=batch_size, on_progress=on_progress)
            return [LabelChoice(label, logprob) for label, logprob in found]
    return [best_label(values) for values in label_logprobs(model, prompts, labels, on_progress=on_progress)]


def best_label(logprobs: Sequence[float]) -> LabelChoice:
    """The greatest of some labels' log-probabilities; of equal ones the first."""
    label = max(range(len(logprobs)), key=lambda index: (logprobs[index], -index))
    return LabelChoice(label, logprobs[label])


def label_logprobs(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelSet,
    *,
    path: ScorerPath = "auto",
    on_progress: Callable[[int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[list[float]]:
    """Log-probability in nats of every label behind every prompt, stop token included.

    Args:
        model: A causal language model, plain or with a PEFT adapter.
        prompts: Token ids.
        labels: The closed set.
        path: How trees are computed; see `make_scorer`.
        on_progress: Called with the number of finished rows.
        names: What error messages call the prompts.

    Raises:
        DataError: A prompt is empty, or it and the longest label pass the model's context.
        ModelError: The forced path is not exact for this model.
    """
    _check(model, prompts, labels, 1, names)
    found: list[list[float]] = [[] for _ in prompts]
    with inference_mode(model):
        scorer = make_scorer(model, path=path)
        is_padded = scorer.path == "padded"
        for pairs in _passes(
            prompts, labels, is_padded=is_padded, vocabulary=model.config.get_text_config().vocab_size
        ):
            tree = build_tree([_sequence(prompts[row], labels.token_ids[label]) for row, label in pairs])
            values = tree.sum_by_sequence(scorer.logprobs(tree).double().cpu()).tolist()
            for (row, _), value in zip(pairs, values, strict=True):
                found[row].append(value)
            if on_progress is not None:
                on_progress(sum(len(row) == len(labels.texts) for row in found))
    return found


def _sequence(prompt: Sequence[int], label: Sequence[int]) -> TokenSequence:
    weights = np.zeros(len(prompt) + len(label), dtype=np.float32)
    weights[len(prompt) :] = 1
    return TokenSequence(np.array([*prompt, *label], dtype=np.int64), weights, len(prompt))


def _passes(
    prompts: Sequence[Sequence[int]], labels: LabelSet, *, is_padded: bool, vocabulary: int
) -> Iterator[list[tuple[int, int]]]:
    """Pairs of row and label that are scored together, in order: whole rows as far as a pass takes them."""
    num_labels = len(labels.texts)
    if is_padded:
        most_by_logits = _MAX_LOGIT_BYTES // (4 * vocabulary * labels.longest)
        for row, prompt in enumerate(prompts):
            most = max(1, min(MAX_TREE_TOKENS // (len(prompt) + labels.longest), most_by_logits))
            for start in range(0, num_labels, most):
                yield [(row, label) for label in range(start, min(start + most, num_labels))]
        return
    num_nodes = len(build_trie(labels))
    pairs: list[tuple[int, int]] = []
    num_tokens = 0
    for row, prompt in enumerate(prompts):
        num_tokens += len(prompt) + num_nodes
        if pairs and num_tokens > MAX_TREE_TOKENS:
            yield pairs
            pairs, num_tokens = [], len(prompt) + num_nodes
        pairs += [(row, label) for label in range(num_labels)]
    if pairs:
        yield pairs


def _check(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelSet,
    batch_size: int | None,
    names: Sequence[str] | None,
) -> None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size: got {batch_size}; it must be at least 1")
    names = [f"prompt {row + 1}" for row in range(len(prompts))] if names is None else names
    empty = [name for name, prompt in zip(names, prompts, strict=True) if len(prompt) == 0]
    if empty:
        raise DataError(f"{empty[0]} has no tokens; a prompt needs at least one")
    limit = context_length(model)
    too_long = [row for row, prompt in enumerate(prompts) if limit and len(prompt) + labels.longest - 1 > limit]
    if too_long:
        row = max(too_long, key=lambda r: len(prompts[r]))
        raise DataError(
            f"{len(too_long)} of {len(prompts)} prompts leave no room for the labels; the longest, {names[row]}, has "
            f"{len(prompts[row])} tokens, the longest label {labels.longest}, and the model's context is {limit}. "
            "Shorten the prompt or the labels"
        )
