"""Attention on a tree with an explicit mask: the reference of the others, quadratic in the tokens."""

import torch

from loratory.tree.tree import TokenTree


def reach_T(tree: TokenTree) -> torch.Tensor:
    """The flat index behind the last token that may look at each token, int64 [T].

    Segments stand depth first, so a token is seen by itself and by the tokens behind it as long as these belong to
    its segment or to a descendant of it: `key <= query < reach_T[key]`.
    """
    reach = torch.empty(tree.num_tokens, dtype=torch.int64)
    ends = [segment.stop for segment in tree.segments]
    for index in reversed(range(len(tree.segments))):  # children stand behind their parent
        segment = tree.segments[index]
        if segment.parent >= 0:
            ends[segment.parent] = max(ends[segment.parent], ends[index])
        reach[segment.start : segment.stop] = ends[index]
    return reach


def visible_TT(tree: TokenTree) -> torch.Tensor:
    """Which key (column) each query (row) sees, bool [T, T]."""
    index_T = torch.arange(tree.num_tokens)
    return (index_T <= index_T[:, None]) & (index_T[:, None] < reach_T(tree))


class DenseTreeAttention:
    """Attention of one tree by a boolean mask.

    Args:
        tree: The tree.
        device: Where the model is.
    """

    def __init__(self, tree: TokenTree, device: torch.device) -> None:
        self._visible_TT = visible_TT(tree).to(device)

    def __call__(
        self, q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attend; G key-value heads serve H query heads. Returns [T, H, K]."""
        out_HTK = torch.nn.functional.scaled_dot_product_attention(
            q_THK.transpose(0, 1)[None],
            k_TGK.transpose(0, 1)[None],
            v_TGK.transpose(0, 1)[None],
            attn_mask=self._visible_TT,
            scale=scaling,
            enable_gqa=q_THK.shape[1] != k_TGK.shape[1],
        )[0]
        return out_HTK.transpose(0, 1)
