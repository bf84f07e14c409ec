"""Batched generation with a key-value cache: our own loop, token for token what transformers' greedy `generate` gives.

Prompts are sorted by length and padded on the left; a row leaves the batch, and the cache, as soon as it stops, so
short answers do not pay for long ones. A prefix that all prompts share (instruction, system prompt) is computed once,
and so is a prompt that several rows of a batch have in common (samples of one prompt).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.errors import ConfigError, DataError
from loratory.infer.flat.generation import generate_flat
from loratory.infer.flat.model import FlatModel, flat_refusal
from loratory.infer.padded_rows import Batch, compact, prefill, step, what_is_before
from loratory.infer.rows_at_once import rows_at_once
from loratory.infer.sampling import Sampling, draw_tokens, row_uniforms
from loratory.infer.virtual_tokens import num_virtual_tokens
from loratory.tree.eligibility import base_of


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """What the model said.

    Attributes:
        token_ids: New tokens without the stop token.
        stop_token_id: The token that ended the answer; None when it reached its longest length first.
    """

    token_ids: list[int]
    stop_token_id: int | None


def context_length(model: PreTrainedModel | PeftModel) -> int | None:
    """Most tokens a sequence may have besides virtual ones; None when positions have no limit (ALiBi)."""
    limit = getattr(base_of(model).config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(limit) - num_virtual_tokens(model) if limit else None


def generate(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """Continue every prompt until a stop token or `max_new_tokens`.

    Args:
        model: A causal language model, plain or with a PEFT adapter. Its weights and mode are left as they were.
        prompts: Token ids, at least one per prompt.
        stop_token_ids: Ids that end an answer; they are not part of the result.
        max_new_tokens: Longest answer. An answer of exactly this length did not stop by itself.
        batch_size: Rows per forward pass; None: what memory allows, see `rows_at_once`.
        sampling: How to draw tokens; None takes the likeliest one.
        on_progress: Called with the number of finished rows, each time rows finish.
        on_token: Called with (row, token id) for each token of an answer as it comes.
        names: What error messages call the prompts; default "prompt 1", "prompt 2", ….

    Returns:
        New token ids per prompt, in the order of the prompts.

    Raises:
        DataError: When a prompt is empty or leaves no room for `max_new_tokens` in the model's context.
        ConfigError: When `max_new_tokens` or `batch_size` is below 1.
    """
    answers = generate_answers(
        model,
        prompts,
        stop_token_ids=stop_token_ids,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        sampling=sampling,
        on_progress=on_progress,
        on_token=on_token,
        names=names,
    )
    return [answer.token_ids for answer in answers]


def generate_answers(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int | None = None,
    sampling: Sampling | None = None,
    draw_numbers: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[GeneratedAnswer]:
    """As `generate`, with the token that stopped each answer.

    Args:
        model: See `generate`, as for what is not named here.
        prompts: Token ids, at least one per prompt; equal prompts in a row are computed once.
        stop_token_ids: Ids that end an answer.
        max_new_tokens: Longest answer.
        batch_size: Rows per forward pass; None: what memory allows, see `rows_at_once`.
        sampling: How to draw tokens.
        draw_numbers: What stands for each row in its draws, with the sampling's seed; default: its position.
        on_progress: Called with the number of finished rows.
        on_token: Called with (row, token id).
        names: What error messages call the prompts.
    """
    _check(model, prompts, max_new_tokens, batch_size, names)
    numbers = range(len(prompts)) if draw_numbers is None else draw_numbers
    stops = frozenset(stop_token_ids)
    with inference_mode(model):
        longest = max(map(len, prompts), default=0) + max_new_tokens
        is_flat = bool(prompts) and flat_refusal(model, longest=longest) is None
        batch_size = batch_size or rows_at_once(model, longest_tokens=longest, is_padded=not is_flat)
        if is_flat:
            generated = generate_flat(
                FlatModel(model), prompts, stops=stops, max_new_tokens=max_new_tokens, batch_size=batch_size,
                sampling=sampling, draw_numbers=numbers, on_progress=on_progress, on_token=on_token,
            )  # fmt: skip
        else:
            generated = _generate_padded(
                model, prompts, stops=stops, max_new_tokens=max_new_tokens, batch_size=batch_size,
                sampling=sampling, draw_numbers=numbers, on_progress=on_progress, on_token=on_token,
            )  # fmt: skip
    return [GeneratedAnswer(token_ids, end) for token_ids, end in generated]


def _generate_padded(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    *,
    stops: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None,
    draw_numbers: Sequence[int],
    on_progress: Callable[[int], None] | None,
    on_token: Callable[[int, int], None] | None,
) -> list[tuple[list[int], int | None]]:
    """As `generate_flat`, by the model's own forward on rows padded on the left."""
    answers: list[list[int]] = [[] for _ in prompts]
    ends: list[int | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    num_done = 0
    before, model, batch_size = what_is_before(model, prompts, batch_size)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        logits_BV, batch = prefill(model, prompts, rows, before)
        if sampling is not None:
            uniforms = [row_uniforms(sampling.seed, draw_numbers[row], max_new_tokens) for row in rows]
            batch.uniforms_BS = torch.stack(uniforms)
        while True:
            tokens_B = _choose(logits_BV, batch, sampling)
            is_live = _record(tokens_B, batch, answers, ends, stops, max_new_tokens, on_token)
            num_left = len(batch.rows) - sum(is_live)
            if num_left:
                num_done += num_left
                if on_progress is not None:
                    on_progress(num_done)
                if not any(is_live):
                    break
                tokens_B = compact(batch, tokens_B, is_live)
            logits_BV = step(model, batch, tokens_B)
    return list(zip(answers, ends, strict=True))


def _check(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int | None,
    names: Sequence[str] | None,
) -> None:
    faults = [
        f"{name}: got {value}; it must be at least 1"
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size))
        if value is not None and value < 1
    ]
    if faults:
        raise ConfigError(faults)
    if names is None:
        names = [f"prompt {row + 1}" for row in range(len(prompts))]
    empty = [name for name, prompt in zip(names, prompts, strict=True) if len(prompt) == 0]
    if empty:
        raise DataError(f"{empty[0]} has no tokens; a prompt needs at least one")
    limit = context_length(model)
    if limit is None:
        return
    too_long = [row for row, prompt in enumerate(prompts) if len(prompt) + max_new_tokens > limit]
    if too_long:
        row = max(too_long, key=lambda r: len(prompts[r]))
        raise DataError(
            f"{len(too_long)} of {len(prompts)} prompts leave no room for the answer; the longest, {names[row]}, has "
            f"{len(prompts[row])} tokens, and the model's context of {limit} less max_new_tokens {max_new_tokens} "
            f"leaves {max(limit - max_new_tokens, 0)}. Shorten the prompt or lower max_new_tokens"
        )


@contextmanager
def inference_mode(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Evaluation mode without gradients inside; the modules' own modes again after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _choose(logits_BV: torch.Tensor, batch: Batch, sampling: Sampling | None) -> torch.Tensor:
    if sampling is None:
        return logits_BV.argmax(dim=-1)
    assert batch.uniforms_BS is not None
    return draw_tokens(logits_BV, batch.uniforms_BS[:, batch.step], sampling)


def _record(
    tokens_B: torch.Tensor,
    batch: Batch,
    answers: list[list[int]],
    ends: list[int | None],
    stops: frozenset[int],
    max_new_tokens: int,
    on_token: Callable[[int, int], None] | None,
) -> list[bool]:
    """Append each row's token to its answer; True for rows that go on."""
    is_live = []
    for row, token in zip(batch.rows, tokens_B.tolist(), strict=True):
        if token in stops:
            ends[row] = token
            is_live.append(False)
            continue
        answers[row].append(token)
        if on_token is not None:
            on_token(row, token)
        is_live.append(len(answers[row]) < max_new_tokens)
    return is_live
