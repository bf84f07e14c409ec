"""Rows of a padded batch with their cache: what comes before them, their prompts, and one step after another.

Prompts are padded on the left. Rows that are done leave the batch and the cache.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from loratory.infer.virtual_tokens import num_virtual_tokens, virtual_cache
from loratory.tree.eligibility import base_of

MIN_SHARED_TOKENS = 16


@dataclass(slots=True)
class Batch:
    """Rows being generated. Tensors shrink as rows leave.

    Attributes:
        rows_B: Input index of each live row.
        mask_BT: 1 for real tokens, 0 for padding; one column per cached token.
        positions_B: Position of each row's latest token.
    """

    rows: list[int]
    mask_BT: torch.Tensor
    positions_B: torch.Tensor
    cache: DynamicCache
    is_padded: bool
    uniforms_BS: torch.Tensor | None = None
    step: int = field(default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What stands in the cache before a row's own tokens.

    Attributes:
        length: Cached tokens, virtual or of prompts.
        num_prompt_tokens: Of each prompt, how many of them are its own first tokens.
        cache: One row.
    """

    length: int
    num_prompt_tokens: int
    cache: DynamicCache


def what_is_before(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Before, PreTrainedModel | PeftModel, int]:
    """What is computed once for all rows, the model that goes on from there, and how many rows it takes at once.

    Args:
        model: In evaluation mode.
        prompts: Token ids of all prompts.
        batch_size: Rows at once that the caller wants.
    """
    num_virtual = num_virtual_tokens(model)
    if not num_virtual:
        return _shared_prefix(model, prompts, batch_size), model, batch_size
    assert isinstance(model, PeftModel)
    before = Before(num_virtual, 0, virtual_cache(model))
    is_repeatable = all(type(layer) is DynamicLayer for layer in before.cache.layers)
    return before, base_of(model), batch_size if is_repeatable else 1


def prefill(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    before: Before,
) -> tuple[torch.Tensor, Batch]:
    """Compute the prompts of some rows; equal ones once.

    Args:
        model: The model that goes on from `before`.
        prompts: Token ids of all prompts.
        rows: Which of them.
        before: What all of them have in common.

    Returns:
        Logits of each row's first new token [B, V], and the batch.
    """
    place_of: dict[tuple[int, ...], int] = {}
    place_B = [place_of.setdefault(tuple(prompts[row][before.num_prompt_tokens :]), len(place_of)) for row in rows]
    rests = list(place_of)
    width = max(map(len, rests))
    tokens_UT = torch.tensor([[0] * (width - len(rest)) + [*rest] for rest in rests], device=model.device)
    real_UT = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=model.device)
    positions_UT = before.length + (real_UT.cumsum(dim=1) - 1).clamp(min=0)
    cache = copy.deepcopy(before.cache)
    if before.length:
        cache.batch_repeat_interleave(len(rests))
    mask_UT = torch.cat([real_UT.new_ones(len(rests), before.length), real_UT], dim=1)
    is_padded = bool((real_UT == 0).any())
    logits_BV = _forward(model, tokens_UT, cache, mask_UT if is_padded else None, positions_UT)
    positions_B = positions_UT[:, -1]
    if len(rests) < len(rows):
        index_B = torch.tensor(place_B, device=model.device)
        cache.batch_select_indices(index_B)
        logits_BV, mask_UT, positions_B = logits_BV[index_B], mask_UT[index_B], positions_B[index_B]
    return logits_BV, Batch(rows=list(rows), mask_BT=mask_UT, positions_B=positions_B, cache=cache, is_padded=is_padded)


def compact(batch: Batch, tokens_B: torch.Tensor, is_live: list[bool]) -> torch.Tensor:
    """Drop finished rows from the batch and its cache; returns the live rows' tokens."""
    keep = torch.tensor([i for i, live in enumerate(is_live) if live], device=tokens_B.device)
    batch.rows = [row for row, live in zip(batch.rows, is_live, strict=True) if live]
    batch.mask_BT = batch.mask_BT[keep]
    batch.positions_B = batch.positions_B[keep]
    if batch.uniforms_BS is not None:
        batch.uniforms_BS = batch.uniforms_BS[keep.cpu()]
    batch.cache.batch_select_indices(keep)
    return tokens_B[keep]


def step(model: PreTrainedModel | PeftModel, batch: Batch, tokens_B: torch.Tensor) -> torch.Tensor:
    """Feed each row's latest token; returns the logits of the next one, [B, V]."""
    batch.positions_B = batch.positions_B + 1
    batch.mask_BT = torch.cat([batch.mask_BT, batch.mask_BT.new_ones(len(batch.rows), 1)], dim=1)
    batch.step += 1
    return _forward(
        model,
        tokens_B.unsqueeze(1),
        batch.cache,
        batch.mask_BT if batch.is_padded else None,
        batch.positions_B.unsqueeze(1),
    )


def _shared_prefix(model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], batch_size: int) -> Before:
    """The prefix that all prompts share; nothing when it is not worth it or not exact."""
    cache = DynamicCache(config=model.config)
    if len(prompts) < 2 or batch_size < 2:
        return Before(0, 0, cache)
    # A sliding window counts cache slots, so the padding between a shared prefix and its continuations would
    # push tokens out of it; other cache kinds cannot be repeated along the batch.
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return Before(0, 0, cache)
    # Of all token sequences the least and the greatest differ earliest.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    if length < MIN_SHARED_TOKENS:
        return Before(0, 0, cache)
    tokens_1T = torch.tensor([first[:length]], device=model.device)
    _forward(model, tokens_1T, cache, None, torch.arange(length, device=model.device).unsqueeze(0))
    return Before(length, length, cache)


def _forward(
    model: PreTrainedModel | PeftModel,
    tokens_BT: torch.Tensor,
    cache: DynamicCache,
    mask_BT: torch.Tensor | None,
    positions_BT: torch.Tensor,
) -> torch.Tensor:
    output = model(
        input_ids=tokens_BT,
        attention_mask=mask_BT,
        position_ids=positions_BT,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits_BV: torch.Tensor = output.logits[:, -1]
    return logits_BV
