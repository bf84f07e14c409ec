"""Tree attention against the dense masked definition, values and gradients."""

import random
from collections.abc import Sequence

import pytest
import torch

from loratory.tree import attention_plan
from loratory.tree.attention_cpu import tree_attention
from loratory.tree.attention_plan import MAX_BLOCK_TOKENS, AttentionPlan
from loratory.tree.tree import Segment


def path_mask(segments: Sequence[Segment]) -> torch.Tensor:
    """[T, T]: whether row token may see column token, by walking up parents."""
    num_tokens = segments[-1].stop
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for segment in segments:
        for row in range(segment.start, segment.stop):
            mask[row, segment.start : row + 1] = True
            parent = segment.parent
            while parent >= 0:
                mask[row, segments[parent].start : segments[parent].stop] = True
                parent = segments[parent].parent
    return mask


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Sequence[Segment], scaling: float
) -> torch.Tensor:
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = torch.einsum("thk,shk->hts", q, k) * scaling
    scores = scores.masked_fill(~path_mask(segments), float("-inf"))
    return torch.einsum("hts,shk->thk", scores.softmax(-1), v)


def make_segments(shape: Sequence[tuple[int, int]]) -> tuple[Segment, ...]:
    """Segments from (parent, length) in flat order."""
    segments: list[Segment] = []
    for parent, length in shape:
        start = segments[-1].stop if segments else 0
        segments.append(Segment(parent, start, start + length))
    return tuple(segments)


def random_segments(seed: int) -> tuple[Segment, ...]:
    draw = random.Random(seed)
    count = draw.randint(1, 12)
    return make_segments([(draw.randint(-1, i - 1), draw.choice([1, 1, 2, 3, 5, 9, 20])) for i in range(count)])


TREES = {
    "one token": [(-1, 1)],
    "one sequence": [(-1, 17)],
    "roots only": [(-1, 5), (-1, 9), (-1, 1)],
    "template": [(-1, 11), (0, 4), (0, 6), (0, 1)],
    "pairs under a template": [(-1, 6), (0, 5), (1, 3), (1, 4), (0, 2), (4, 7), (4, 1)],
    "depth 4": [(-1, 3), (0, 4), (1, 2), (2, 5), (2, 1), (0, 6)],
    "long": [(-1, 150), (0, 300), (0, 20), (-1, 129)],
}


def assert_equals_dense(
    segments: Sequence[Segment], dtype: torch.dtype, tolerance: float, *, block: int = MAX_BLOCK_TOKENS
) -> None:
    torch.manual_seed(0)
    num_tokens = segments[-1].stop
    q = torch.randn(num_tokens, 6, 8, dtype=dtype, requires_grad=True)
    k = torch.randn(num_tokens, 2, 8, dtype=dtype, requires_grad=True)
    v = torch.randn(num_tokens, 2, 8, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(num_tokens, 6, 8, dtype=dtype)
    plan = AttentionPlan.from_segments(segments, max_block_tokens=block)
    fast = tree_attention(q, k, v, plan, scaling=0.3)
    slow = dense_attention(q, k, v, segments, 0.3)
    torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)
    fast_grads = torch.autograd.grad(fast, (q, k, v), cotangent)
    slow_grads = torch.autograd.grad(slow, (q, k, v), cotangent)
    for fast_grad, slow_grad in zip(fast_grads, slow_grads, strict=True):
        scale = max(float(slow_grad.abs().max()), 1.0)
        torch.testing.assert_close(fast_grad / scale, slow_grad / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TREES)
def test_equals_dense_in_double(name: str) -> None:
    assert_equals_dense(make_segments(TREES[name]), torch.float64, 1e-12)


@pytest.mark.parametrize("name", TREES)
def test_equals_dense_in_single(name: str) -> None:
    assert_equals_dense(make_segments(TREES[name]), torch.float32, 3e-6)


@pytest.mark.parametrize("seed", range(60))
def test_random_trees_equal_dense(seed: int) -> None:
    assert_equals_dense(random_segments(seed), torch.float64, 1e-12, block=[2, 4, 128][seed % 3])


@pytest.mark.parametrize("max_kept_keys", [0, 30])
def test_probabilities_made_again_or_kept(max_kept_keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_plan, "MAX_KEPT_KEYS", max_kept_keys)
    assert_equals_dense(make_segments(TREES["pairs under a template"]), torch.float64, 1e-12)
    assert_equals_dense(make_segments(TREES["long"]), torch.float64, 1e-12)


def test_large_scores_stay_finite() -> None:
    segments = make_segments(TREES["pairs under a template"])
    num_tokens = segments[-1].stop
    torch.manual_seed(1)
    q, k, v = (1e3 * torch.randn(num_tokens, 2, 8, requires_grad=True) for _ in range(3))
    out = tree_attention(q, k, v, AttentionPlan.from_segments(segments), scaling=1.0)
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(bool(t.isfinite().all()) for t in (out, *grads))


def test_plan_batches_siblings_and_similar_families() -> None:
    siblings = AttentionPlan.from_segments(make_segments([(-1, 40), *((0, 22 + i % 3) for i in range(16))]))
    assert [(tile.num_blocks, tile.has_one_path) for tile in siblings.tiles] == [(16, True), (1, True)]
    pairs = make_segments([item for i in range(8) for item in ((-1, 30), (3 * i, 20), (3 * i, 20))])
    tiles = AttentionPlan.from_segments(pairs).tiles
    assert [(tile.num_blocks, tile.has_one_path) for tile in tiles] == [(16, False), (8, True)]
    assert all(tile.path_is_padding is None for tile in tiles)


def test_no_tile_holds_all_pairs_of_a_long_sequence() -> None:
    plan = AttentionPlan.from_segments(make_segments([(-1, 4096)]))
    pairs = [t.num_blocks * t.length * (t.path_length + t.length) for t in plan.tiles]
    assert max(pairs) < 4096 * 4096 / 8
    assert sum(pairs) < 0.55 * 4096 * 4096


def test_empty_tree() -> None:
    plan = AttentionPlan.from_segments(())
    empty = torch.zeros(0, 2, 4)
    assert tree_attention(empty, empty, empty, plan, scaling=1.0).shape == (0, 2, 4)
