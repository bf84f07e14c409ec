"""The attention function that loratory registers with transformers, and the choice of what stands behind it.

Nothing is patched: a model whose attention implementation is `loratory_tree` hands the forward's keyword
`tree_attention` through to this function, as it does for packed sequences. Without that keyword the function is
plain SDPA with SDPA's masks, so generation and evaluation on the same model are unchanged.
"""

from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from loratory.tree.attention_cpu import tree_attention
from loratory.tree.attention_dense import DenseTreeAttention
from loratory.tree.attention_plan import AttentionPlan
from loratory.tree.tree import TokenTree

IMPLEMENTATION = "loratory_tree"


class TreeAttention(Protocol):
    """Attention along the paths of one tree."""

    def __call__(
        self, q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attend; G key-value heads serve H query heads. Returns [T, H, K]."""
        ...


def set_tree_attention(model: PreTrainedModel) -> None:
    """Let the model accept a tree; its other uses stay as they are under SDPA. Idempotent."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    if model.config._attn_implementation != IMPLEMENTATION:
        model.set_attn_implementation(IMPLEMENTATION)


def forward_arguments(tree: TokenTree, model_device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The keywords that make a model's forward compute a tree as one row of tokens.

    The mask is empty on purpose. A 4-D mask is taken as it is, so transformers neither builds one from [T, T] pairs
    nor reads document borders out of position ids that jump; and were the tree ever lost on the way to the attention
    function, no other function could use this mask without an error.
    """
    return {
        "input_ids": tree.tokens_T.to(model_device)[None],
        "position_ids": tree.positions_T.to(model_device)[None],
        "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=model_device),
        "use_cache": False,
        "tree_attention": choose_attention(tree, model_device, dtype),
    }


def choose_attention(tree: TokenTree, device: torch.device, dtype: torch.dtype) -> TreeAttention:
    """The fastest exact attention for a tree on this device."""
    if device.type == "cuda":
        from loratory.tree.attention_gpu import FlexTreeAttention, VarlenAttention, has_flex, has_varlen

        is_forest_of_rows = all(segment.parent < 0 for segment in tree.segments)
        if is_forest_of_rows and has_varlen(device, dtype):
            return VarlenAttention(tree, device)
        if has_flex():
            return FlexTreeAttention(tree, device)
    return PlannedTreeAttention(tree) if device.type == "cpu" else DenseTreeAttention(tree, device)


class PlannedTreeAttention:
    """Attention of one tree by batched products over its paths."""

    def __init__(self, tree: TokenTree) -> None:
        self._plan = AttentionPlan.from_tree(tree)

    def __call__(
        self, q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, *, scaling: float | None
    ) -> torch.Tensor:
        """Attend; G key-value heads serve H query heads. Returns [T, H, K]."""
        if torch.is_autocast_enabled("cpu"):  # which would change dtypes inside, and leaves them unequal here
            q_THK, k_TGK, v_TGK = (x.to(torch.get_autocast_dtype("cpu")) for x in (q_THK, k_TGK, v_TGK))
        with torch.autocast("cpu", enabled=False):
            return tree_attention(q_THK, k_TGK, v_TGK, self._plan, scaling=scaling or q_THK.shape[-1] ** -0.5)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_attention: TreeAttention | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The signature that transformers calls; the further keywords are those it hands to every attention function."""
    if tree_attention is None:
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out
    assert dropout == 0, "a shared prefix would draw one dropout mask for all its sequences"
    out_THK = tree_attention(
        query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), scaling=scaling
    )
    return out_THK[None], None
