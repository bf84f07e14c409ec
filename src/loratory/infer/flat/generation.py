"""Generation on flat tokens: prompts go in while other rows decode, so the passes stay full to the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from loratory.infer.flat.model import FlatModel
from loratory.infer.flat.prompts import PromptQueue
from loratory.infer.flat.slots import Feed
from loratory.infer.sampling import Sampling, draw_tokens, row_uniforms


@dataclass(slots=True)
class _Row:
    """A row in its slot.

    Attributes:
        index: Which prompt.
        feed: What it gives into the next pass.
        uniforms_S: Its random numbers, one for each token of the answer.
    """

    index: int
    feed: Feed
    uniforms_S: torch.Tensor | None


def generate_flat(
    model: FlatModel,
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
    """Continue every prompt; arguments are those of `loratory.infer.generate.generate_answers`.

    Returns:
        New tokens of each row and the token that stopped it, None when it reached its longest length first.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    ends: list[int | None] = [None] * len(prompts)
    queue = PromptQueue(model, prompts, num_slots=batch_size)
    rows: list[_Row] = []
    num_done = 0
    while True:
        for index, feed in queue.admit():
            uniforms_S = None if sampling is None else row_uniforms(sampling.seed, draw_numbers[index], max_new_tokens)
            rows.append(_Row(index, feed, uniforms_S))
        if not rows:
            return list(zip(answers, ends, strict=True))
        rows.sort(key=lambda row: row.feed.slot)
        tokens = _next_tokens(model, queue, rows, answers, sampling)
        live: list[_Row] = []
        for row, token in zip(rows, tokens, strict=True):
            if token in stops:
                ends[row.index] = token
            else:
                answers[row.index].append(token)
                if on_token is not None:
                    on_token(row.index, token)
            if token in stops or len(answers[row.index]) == max_new_tokens:
                queue.free.append(row.feed.slot)
                continue
            row.feed = Feed(row.feed.slot, row.feed.start + len(row.feed.tokens), [token])
            live.append(row)
        num_done += len(rows) - len(live)
        if on_progress is not None and len(live) < len(rows):
            on_progress(num_done)
        rows = live
        if queue.compact([row.feed.slot for row in rows]):
            for slot, row in enumerate(rows):
                row.feed = Feed(slot, row.feed.start, row.feed.tokens)


def _next_tokens(
    model: FlatModel,
    queue: PromptQueue,
    rows: Sequence[_Row],
    answers: Sequence[Sequence[int]],
    sampling: Sampling | None,
) -> list[int]:
    """Run one pass and choose each row's token."""
    last_P = torch.tensor([len(row.feed.tokens) for row in rows]).cumsum(0) - 1
    logits_PV = model.run(queue.slots, [row.feed for row in rows], last_P)
    if sampling is None:
        return logits_PV.argmax(dim=-1).tolist()
    uniforms = [row.uniforms_S[len(answers[row.index])] for row in rows if row.uniforms_S is not None]
    return draw_tokens(logits_PV, torch.stack(uniforms), sampling).tolist()
