"""Dense and GPU attention on trees, by their masks and layouts."""

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from tree_batches import deep_batch, template_batch, trained_tail

from loratory.tree.attention_dense import DenseTreeAttention, reach_T, visible_TT
from loratory.tree.attention_gpu import FlexTreeAttention, VarlenAttention, tree_mask_mod
from loratory.tree.build import build_tree
from loratory.tree.registry import choose_attention
from loratory.tree.tree import TokenTree


def trees() -> dict[str, TokenTree]:
    return {
        "deep": build_tree(deep_batch(60), min_saved_tokens=4),
        "template": build_tree(template_batch(60), min_saved_tokens=4),
        "rows": build_tree(template_batch(60), share=False),
        "one token": build_tree([trained_tail([5, 6], 1)]),
    }


def walked_visibility(tree: TokenTree) -> np.ndarray:
    """The same by walking up from each token."""
    visible = np.zeros((tree.num_tokens, tree.num_tokens), dtype=bool)
    for segment in tree.segments:
        for query in range(segment.start, segment.stop):
            visible[query, segment.start : query + 1] = True
            parent = segment.parent
            while parent >= 0:
                visible[query, tree.segments[parent].start : tree.segments[parent].stop] = True
                parent = tree.segments[parent].parent
    return visible


def plain_attention(tree: TokenTree, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    """Softmax written out, one query head at a time."""
    hidden = torch.from_numpy(~walked_visibility(tree))
    heads = []
    for head in range(q.shape[1]):
        group = head * k.shape[1] // q.shape[1]
        scores = (q[:, head] @ k[:, group].T * scaling).masked_fill(hidden, float("-inf"))
        heads.append(scores.softmax(-1) @ v[:, group])
    return torch.stack(heads, dim=1)


def qkv(num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(num_tokens, heads, 16, generator=generator, dtype=torch.float32) for heads in (4, 2, 2))


@pytest.mark.parametrize("name", sorted(trees()))
def test_visibility_is_the_path(name: str) -> None:
    tree = trees()[name]
    assert np.array_equal(visible_TT(tree).numpy(), walked_visibility(tree))


@pytest.mark.parametrize("name", sorted(trees()))
def test_dense_attention(name: str) -> None:
    tree = trees()[name]
    q, k, v = qkv(tree.num_tokens)
    out = DenseTreeAttention(tree, torch.device("cpu"))(q, k, v, scaling=0.3)
    torch.testing.assert_close(out, plain_attention(tree, q, k, v, 0.3))


@pytest.mark.parametrize("name", sorted(trees()))
def test_flex_mask_is_the_path(name: str) -> None:
    tree = trees()[name]
    index = torch.arange(tree.num_tokens)
    mask = tree_mask_mod(reach_T(tree))(index, index, index[:, None], index[None])
    assert np.array_equal(mask.numpy(), walked_visibility(tree))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("name", ["deep", "rows"])
def test_flex_attention_by_its_uncompiled_form(name: str) -> None:
    tree = trees()[name]
    q, k, v = qkv(tree.num_tokens)
    with torch.no_grad():
        out = FlexTreeAttention(tree, torch.device("cpu"), kernel=flex_attention)(q, k, v, scaling=0.3)
    torch.testing.assert_close(out, plain_attention(tree, q, k, v, 0.3))


def test_varlen_bounds_are_the_rows() -> None:
    tree = trees()["rows"]
    attention = VarlenAttention(tree, torch.device("cpu"))
    assert attention._bounds.tolist() == [0, *(segment.stop for segment in tree.segments)]
    with pytest.raises(AssertionError):
        VarlenAttention(trees()["deep"], torch.device("cpu"))


@pytest.mark.parametrize("name", sorted(trees()))
def test_chosen_attention_and_its_gradients(name: str) -> None:
    tree = trees()[name]
    q, k, v = (x.requires_grad_() for x in qkv(tree.num_tokens))
    out = choose_attention(tree, torch.device("cpu"), torch.float32)(q, k, v, scaling=0.3)
    want = plain_attention(tree, q, k, v, 0.3)
    torch.testing.assert_close(out, want)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    for got, expected in zip(
        torch.autograd.grad(out, (q, k, v), cotangent), torch.autograd.grad(want, (q, k, v), cotangent), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
