"""Exact attention on a token tree by a few batched matrix products, without masks over the whole tree.

The plan puts all keys of a query into one tile, so one softmax over [path | own block] is the whole attention: no
partial results to merge. Scores are recomputed in the backward; saved are only q, k and v. On CPU this is faster than
torch's flash kernel, whose blocks are slow both for short segments and in the backward of long ones.

Heads: H query heads share G key heads, `H = G * S`, query head `g * S + s` reads key head g. Tensors here carry one
zero row behind the T tokens (`T1`), which padded places point at.
"""

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
    assert q_THK.shape[0] == plan.num_tokens
    q, k, v = (torch.nn.functional.pad(t, (0, 0, 0, 0, 0, 1)) for t in (q_THK, k_TGK, v_TGK))
    out: torch.Tensor = _TreeAttention.apply(q, k, v, plan, scaling)  # type: ignore[no-untyped-call]
    return out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: AttentionPlan, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.plan = plan
        ctx.scaling = scaling
        return attention_forward(q, k, v, plan, scaling=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad = torch.nn.functional.pad(grad_THK, (0, 0, 0, 0, 0, 1))
        grads = attention_backward(grad, q, k, v, ctx.plan, scaling=ctx.scaling)
        return (*(torch.nn.functional.pad(g, (0, 0, 0, 0, 0, 1)) for g in grads), None, None)


def attention_forward(
    q_T1HK: torch.Tensor, k_T1GK: torch.Tensor, v_T1GK: torch.Tensor, plan: AttentionPlan, *, scaling: float
) -> torch.Tensor:
    """Attention output [T, H, K]; inputs are contiguous with a zero row behind. No autograd."""
    num_heads, num_key_heads, width = q_T1HK.shape[1], k_T1GK.shape[1], q_T1HK.shape[2]
    rows = plan.rows(num_key_heads)
    queries = _tile_rows(q_T1HK, rows, num_key_heads).mul_(scaling)
    keys, values = (_tile_rows(t, rows, num_key_heads) for t in (k_T1GK, v_T1GK))
    outputs = torch.empty_like(queries)
    for index, (tile, place) in enumerate(zip(plan.tiles, rows.tile_slices, strict=True)):
        shape = _TileShape(tile, num_key_heads, width)
        path_k, path_v = (_path(t, tile, rows.path[index]) for t in (k_T1GK, v_T1GK))
        probabilities = _probabilities(queries[place], keys[place], path_k, tile, shape)
        out = outputs[place]
        torch.bmm(shape.own_part(probabilities), shape.block(values[place]), out=shape.block(out))
        if path_v is not None:
            shape.family(out).baddbmm_(shape.path_part(probabilities), path_v)
    return outputs.index_select(0, rows.unpadded).view(plan.num_tokens, num_heads, width)


def attention_backward(
    grad_T1HK: torch.Tensor,
    q_T1HK: torch.Tensor,
    k_T1GK: torch.Tensor,
    v_T1GK: torch.Tensor,
    plan: AttentionPlan,
    *,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q [T, H, K], k and v [T, G, K]; the given gradient has a zero row behind as well."""
    num_heads, num_key_heads, width = q_T1HK.shape[1], k_T1GK.shape[1], q_T1HK.shape[2]
    rows = plan.rows(num_key_heads)
    queries = _tile_rows(q_T1HK, rows, num_key_heads).mul_(scaling)
    grads, keys, values = (_tile_rows(t, rows, num_key_heads) for t in (grad_T1HK, k_T1GK, v_T1GK))
    grad_queries, grad_keys, grad_values = (torch.empty_like(t) for t in (queries, keys, values))
    path_grads: list[tuple[torch.Tensor, torch.Tensor] | None] = []
    for index, (tile, place) in enumerate(zip(plan.tiles, rows.tile_slices, strict=True)):
        shape = _TileShape(tile, num_key_heads, width)
        path_k, path_v = (_path(t, tile, rows.path[index]) for t in (k_T1GK, v_T1GK))
        probabilities = _probabilities(queries[place], keys[place], path_k, tile, shape)
        q, k, v, grad = (shape.block(t[place]) for t in (queries, keys, values, grads))
        scores_grad = torch.empty_like(probabilities)
        torch.bmm(grad, v.transpose(1, 2), out=shape.own_part(scores_grad))
        torch.bmm(shape.own_part(probabilities).transpose(1, 2), grad, out=shape.block(grad_values[place]))
        if path_v is not None:
            torch.bmm(shape.family(grad), path_v.transpose(1, 2), out=shape.path_part(scores_grad))
            path_v = torch.bmm(shape.path_part(probabilities).transpose(1, 2), shape.family(grad))
        scores_grad = torch._softmax_backward_data(scores_grad, probabilities, -1, probabilities.dtype)
        torch.bmm(shape.own_part(scores_grad), k, out=shape.block(grad_queries[place]))
        torch.bmm(shape.own_part(scores_grad).transpose(1, 2), q, out=shape.block(grad_keys[place]))
        path_grads.append(None)
        if path_k is not None and path_v is not None:
            shape.family(grad_queries[place]).baddbmm_(shape.path_part(scores_grad), path_k)
            path_grads[-1] = torch.bmm(shape.path_part(scores_grad).transpose(1, 2), shape.family(q)), path_v
    grad_q = grad_queries.index_select(0, rows.unpadded).mul_(scaling).view(plan.num_tokens, num_heads, width)
    grad_k, grad_v = (
        t.index_select(0, rows.unpadded).view(plan.num_tokens, num_key_heads, width) for t in (grad_keys, grad_values)
    )
    _add_path_grads((grad_k, grad_v), path_grads, plan, rows)
    return grad_q, grad_k, grad_v


class _TileShape:
    """Views of a tile's rows, (G, F, C, L) in this order, as batches of matrices."""

    __slots__ = ("batch", "families", "path_length", "width")

    def __init__(self, tile: Tile, num_key_heads: int, width: int) -> None:
        self.families = num_key_heads * tile.num_families
        self.batch = self.families * tile.num_children
        self.path_length = tile.path_length
        self.width = width

    def block(self, rows: torch.Tensor) -> torch.Tensor:
        """[G * F * C, L * S, K] of query-like rows, [G * F * C, L, K] of key-like rows."""
        return rows.view(self.batch, -1, self.width)

    def family(self, rows: torch.Tensor) -> torch.Tensor:
        """[G * F, C * L * S, K] of query-like rows."""
        return rows.view(self.families, -1, self.width)

    def own_part(self, scores: torch.Tensor) -> torch.Tensor:
        """The last L columns of scores [G * F * C, L * S, P + L]."""
        return scores[..., self.path_length :]

    def path_part(self, scores: torch.Tensor) -> torch.Tensor:
        """The first P columns, as [G * F, C * L * S, P]."""
        return scores.view(self.families, -1, scores.shape[-1])[..., : self.path_length]


def _tile_rows(x_T1HK: torch.Tensor, rows: TileRows, num_key_heads: int) -> torch.Tensor:
    """Rows in tile order: [*, S * K] of query-like, [*, K] of key-like tensors."""
    return x_T1HK.view(x_T1HK.shape[0] * num_key_heads, -1).index_select(0, rows.padded)


def _path(x_T1GK: torch.Tensor, tile: Tile, path_rows: torch.Tensor | None) -> torch.Tensor | None:
    """Keys or values of each family's path, [G * F, P, K]; None when the tile has no path."""
    if tile.path_range is not None:
        start, stop = tile.path_range
        return x_T1GK[start:stop].transpose(0, 1)
    if path_rows is None:
        return None
    width = x_T1GK.shape[-1]
    return x_T1GK.view(-1, width).index_select(0, path_rows).view(-1, tile.path_length, width)


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, path_k: torch.Tensor | None, tile: Tile, shape: _TileShape
) -> torch.Tensor:
    """Softmax over [path | own block], [G * F * C, L * S, P + L]; q rows are scaled already."""
    queries, keys = shape.block(q), shape.block(k)
    scores = queries.new_empty(shape.batch, queries.shape[1], tile.path_length + tile.length)
    own = shape.own_part(scores)
    torch.bmm(queries, keys.transpose(1, 2), out=own)
    if tile.length > 1:
        own.add_(tile.causal_bias(queries.shape[1] // tile.length, queries.dtype))
    if path_k is not None:
        path = shape.path_part(scores)
        torch.bmm(shape.family(q), path_k.transpose(1, 2), out=path)
        if tile.path_is_padding is not None:
            by_family = path.view(-1, tile.num_families, *path.shape[1:])
            by_family.masked_fill_(tile.path_is_padding, float("-inf"))
    return torch.softmax(scores, dim=-1, out=scores)


def _add_path_grads(
    grads: tuple[torch.Tensor, torch.Tensor],
    path_grads: list[tuple[torch.Tensor, torch.Tensor] | None],
    plan: AttentionPlan,
    rows: TileRows,
) -> None:
    """Add what descendants give to the keys and values of their paths; `grads` are [T, G, K]."""
    for index, (tile, parts) in enumerate(zip(plan.tiles, path_grads, strict=True)):
        if parts is None:
            continue
        path_rows = rows.path[index]
        real = None
        if path_rows is not None and tile.path_is_padding is not None:
            real = torch.nonzero(path_rows < plan.num_tokens * grads[0].shape[1])[:, 0]
            path_rows = path_rows[real]
        for grad_TGK, part in zip(grads, parts, strict=True):
            if tile.path_range is not None:
                start, stop = tile.path_range
                grad_TGK[start:stop].add_(part.transpose(0, 1))
            else:
                assert path_rows is not None
                flat = part.reshape(-1, part.shape[-1])
                grad_TGK.view(-1, part.shape[-1]).index_add_(0, path_rows, flat if real is None else flat[real])
