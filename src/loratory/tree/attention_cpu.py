"""Exact attention on a token tree by a few batched matrix products, without masks over the whole tree.

The plan puts all keys of a query into one tile, so one softmax over [path | own block] is the whole attention: no
partial results to merge. Saved are q, k, v and, where few keys make them small, the probabilities; else these are made
again in the backward. On CPU this is faster than torch's flash kernel, whose blocks are slow both for short segments
and in the backward of long ones.

Heads: H query heads share G key heads, `H = G * S`, query head `g * S + s` reads key head g. Tensors here carry one
zero row behind the T tokens (`T1`) or Q queries (`Q1`), which padded places point at.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from loratory.tree.attention_plan import AttentionPlan, Tile, TileRows


def tree_attention(
    q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, plan: AttentionPlan, *, scaling: float
) -> torch.Tensor:
    """Attention of every token over its path from the root, itself included.

    Args:
        q_THK: Queries of the flat tree, rotated where the model does so.
        k_TGK: Keys; H is a multiple of G.
        v_TGK: Values.
        plan: Plan of the same tree.
        scaling: Factor of the scores before the softmax.

    Returns:
        [T, H, K]; differentiable once.
    """
    assert plan.first_query == 0
    assert q_THK.shape[0] == plan.num_tokens
    q, k, v = (torch.nn.functional.pad(t, (0, 0, 0, 0, 0, 1)) for t in (q_THK, k_TGK, v_TGK))
    out: torch.Tensor = _TreeAttention.apply(q, k, v, plan, scaling)  # type: ignore[no-untyped-call]
    return out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, scaling: float
    ) -> torch.Tensor:
        out, saved = attention_forward(q, k, v, plan, scaling=scaling)
        ctx.save_for_backward(*saved)
        ctx.plan = plan
        ctx.scaling = scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = torch.nn.functional.pad(grad_THK, (0, 0, 0, 0, 0, 1))
        grads = attention_backward(grad, ctx.saved_tensors, ctx.plan, scaling=ctx.scaling)
        return (*(torch.nn.functional.pad(g, (0, 0, 0, 0, 0, 1)) for g in grads), None, None)


def attention_forward(
    q_Q1HK: torch.Tensor, k_T1GK: torch.Tensor, v_T1GK: torch.Tensor, plan: AttentionPlan, *, scaling: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Attention of the plan's queries, without autograd.

    Args:
        q_Q1HK: The Q queries; like keys and values contiguous with a zero row behind.
        k_T1GK: Keys of all T tokens.
        v_T1GK: Values.
        plan: What attends to what.
        scaling: Factor of the scores.

    Returns:
        Output [Q, H, K], and what `attention_backward` needs.
    """
    num_heads, num_key_heads, width = q_Q1HK.shape[1], k_T1GK.shape[1], q_Q1HK.shape[2]
    rows = plan.rows(num_key_heads)
    queries = _tile_rows(q_Q1HK, rows, num_key_heads)
    outputs = torch.empty_like(queries)
    kept: list[torch.Tensor] = []
    for tile, place, key_rows in zip(plan.tiles, rows.tile_slices, rows.keys, strict=True):
        batch = num_key_heads * tile.num_blocks
        k, v = (t.view(-1, width).index_select(0, key_rows).view(batch, -1, width) for t in (k_T1GK, v_T1GK))
        probabilities = _probabilities(queries[place].view(batch, -1, width), k, tile, scaling)
        torch.bmm(probabilities, v, out=outputs[place].view(batch, -1, width))
        if tile.keeps_probabilities:
            kept.append(probabilities)
    out = outputs.index_select(0, rows.unpadded).view(plan.num_queries, num_heads, width)
    return out, (queries, k_T1GK, v_T1GK, *kept)


def attention_backward(
    grad_Q1HK: torch.Tensor, saved: Sequence[torch.Tensor], plan: AttentionPlan, *, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q [Q, H, K], k and v [T, G, K]; the given gradient has a zero row behind as well."""
    queries, k_T1GK, v_T1GK, *kept = saved
    num_heads, num_key_heads, width = grad_Q1HK.shape[1], k_T1GK.shape[1], k_T1GK.shape[2]
    rows = plan.rows(num_key_heads)
    grads = _tile_rows(grad_Q1HK, rows, num_key_heads)
    grad_queries = torch.empty_like(queries)
    grad_keys, grad_values = (grad_queries.new_empty(len(rows.padded), width) for _ in range(2))
    path_grads: list[tuple[torch.Tensor, torch.Tensor]] = []
    for tile, place, key_rows in zip(plan.tiles, rows.tile_slices, rows.keys, strict=True):
        batch = num_key_heads * tile.num_blocks
        k, v = (t.view(-1, width).index_select(0, key_rows).view(batch, -1, width) for t in (k_T1GK, v_T1GK))
        q, grad = (t[place].view(batch, -1, width) for t in (queries, grads))
        probabilities = kept.pop(0) if tile.keeps_probabilities else _probabilities(q, k, tile, scaling)
        grad_v = torch.bmm(probabilities.transpose(1, 2), grad)
        grad_scores = torch.bmm(grad, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_scores, probabilities, -1, probabilities.dtype)
        _scaled_bmm(grad_scores, k, scaling, out=grad_queries[place].view(batch, -1, width))
        grad_k = _scaled_bmm(grad_scores.transpose(1, 2), q, scaling, out=torch.empty_like(grad_v))
        for joint, own in ((grad_k, grad_keys), (grad_v, grad_values)):
            own[place].view(batch, -1, width).copy_(joint[:, tile.path_length :])
        path_grads.append((_path_grad(grad_k, tile, num_key_heads), _path_grad(grad_v, tile, num_key_heads)))
    grad_q = grad_queries.index_select(0, rows.unpadded).view(plan.num_queries, num_heads, width)
    grad_k, grad_v = (
        _with_paths(own, [pair[side] for pair in path_grads], plan, rows).view(plan.num_tokens, num_key_heads, width)
        for side, own in enumerate((grad_keys, grad_values))
    )
    return grad_q, grad_k, grad_v


def _tile_rows(x_Q1HK: torch.Tensor, rows: TileRows, num_key_heads: int) -> torch.Tensor:
    """Query-like rows in tile order, [*, S * K]."""
    return x_Q1HK.view(x_Q1HK.shape[0] * num_key_heads, -1).index_select(0, rows.padded)


def _scaled_bmm(left: torch.Tensor, right: torch.Tensor, scaling: float, *, out: torch.Tensor) -> torch.Tensor:
    """`scaling * left @ right` in one pass: with beta 0 the added tensor is not read."""
    return torch.baddbmm(out, left, right, beta=0, alpha=scaling, out=out)


def _probabilities(q: torch.Tensor, k: torch.Tensor, tile: Tile, scaling: float) -> torch.Tensor:
    """Softmax over [path | own block], [G * B, L * S, P + L]."""
    scores = _scaled_bmm(q, k.transpose(1, 2), scaling, out=q.new_empty(*q.shape[:2], k.shape[1]))
    if tile.length > 1:
        scores[..., tile.path_length :].add_(tile.causal_bias(q.shape[1] // tile.length, q.dtype))
    if tile.path_is_padding is not None:
        by_block = scores.view(-1, tile.num_blocks, *scores.shape[1:])
        by_block[..., : tile.path_length].masked_fill_(tile.path_is_padding, float("-inf"))
    return torch.softmax(scores, dim=-1, out=scores)


def _path_grad(joint: torch.Tensor, tile: Tile, num_key_heads: int) -> torch.Tensor:
    """The path part of key gradients [G * B, P + L, K], summed over blocks of one path: a row for each path row."""
    path = joint.view(num_key_heads, tile.num_blocks, -1, joint.shape[-1])[:, :, : tile.path_length]
    if tile.has_one_path:
        path = path.sum(1)
    return path.reshape(-1, joint.shape[-1])


def _with_paths(own: torch.Tensor, paths: list[torch.Tensor], plan: AttentionPlan, rows: TileRows) -> torch.Tensor:
    """Key gradients [T * G, K]: those of the own blocks in tile order, plus those of the paths."""
    num_key_heads = len(rows.unpadded) // max(1, plan.num_queries)
    first, stop = plan.first_query * num_key_heads, plan.num_tokens * num_key_heads
    out = own.new_empty(stop + num_key_heads, own.shape[1])  # token T takes the padding
    out[:first].zero_()
    torch.index_select(own, 0, rows.unpadded, out=out[first:stop])
    for path, path_rows in zip(paths, rows.paths, strict=True):
        if path_rows is not None:
            out.index_add_(0, path_rows, path)
    return out[:stop]
