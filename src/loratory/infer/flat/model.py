"""The Llama family's layers on flat tokens with slots of keys and values: inference only, on CPU in full precision.

Weights are those that the fused scorer reads; nothing is copied. Rows of several adapters of one base may stand in one
pass: the base's product is one for all of them, each adapter adds its own update to its rows. The twin is the model's
own forward: every use of this is tested against it.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.infer.flat.slots import Feed, Group, KeyValueSlots, Layout
from loratory.tree.eligibility import base_of, eligibility
from loratory.tree.fused.elementwise import activate, rms_norm, rms_scale, rotate
from loratory.tree.fused.weights import (
    LayerWeights,
    LinearWeights,
    NormWeights,
    final_norm,
    inference_refusal,
    read_layers,
)

_ROTARY_BY_LENGTH = ("dynamic", "longrope")

Parts = Sequence[tuple[LayerWeights, slice]]
"""A layer for each run of tokens: the same base weights, each time with another adapter."""


def flat_refusal(model: PreTrainedModel | PeftModel, *, longest: int) -> str | None:
    """Why rows up to `longest` tokens cannot be continued here exactly, or None when they can."""
    refusal = inference_refusal(model)
    if refusal is not None:
        return refusal
    window = eligibility(model).window
    if window is not None and longest > window:
        return f"rows of {longest} tokens pass the attention window of {window}"
    rotary = getattr(base_of(model).base_model.rotary_emb, "rope_type", "default")
    if rotary in _ROTARY_BY_LENGTH:
        return f"its position encoding '{rotary}' depends on the length of the row"
    return None


class FlatModel:
    """A model as it is now, for passes over feeds.

    Args:
        model: A model in evaluation mode for which `flat_refusal` finds nothing.
        variants: Layers of the same base with other adapters; feeds name them by 1, 2, …. 0 is the model itself.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, *, variants: Sequence[tuple[LayerWeights, ...]] = ()
    ) -> None:
        base = base_of(model)
        head = base.get_output_embeddings()
        self._layers = read_layers(model)
        self._variants = (self._layers, *variants)
        self._norm = final_norm(model)
        self._embedding = base.get_input_embeddings()
        self._rotary = base.base_model.rotary_emb
        self._head_VD, self._head_bias = head.weight.detach(), head.bias
        self._dtype = base.dtype

    def new_slots(self, num_slots: int) -> KeyValueSlots:
        """Empty slots of this model."""
        shapes = [(layer.num_key_heads, layer.head_width) for layer in self._layers]
        return KeyValueSlots(shapes, num_slots=num_slots, dtype=self._dtype)

    @torch.inference_mode()
    def run(self, slots: KeyValueSlots, feeds: Sequence[Feed], wanted_P: torch.Tensor) -> torch.Tensor:
        """Write the feeds' keys and values into their slots.

        Args:
            slots: Where rows stand; changed.
            feeds: Tokens, at most one feed for a slot.
            wanted_P: int64, ascending; tokens (counted over all feeds) whose logits are needed.

        Returns:
            Logits of the token behind each of those, [P, V].
        """
        layout = slots.place(feeds)
        x_QD = self._embedding(layout.tokens_Q)
        cos_1QK, sin_1QK = self._rotary(x_QD, layout.positions_Q[None])
        half = cos_1QK.shape[-1] // 2
        cos_Q1J, sin_Q1J = (t[0, :, None, :half].contiguous() for t in (cos_1QK, sin_1QK))
        runs = _runs(feeds)
        for depth, (k_BCGK, v_BCGK) in enumerate(slots.layers):
            parts = self._parts(depth, runs)
            mixed_QX = _attend(x_QD, parts, layout, (cos_Q1J, sin_Q1J), k_BCGK, v_BCGK)
            if depth == len(self._layers) - 1:
                x_QD, mixed_QX = x_QD[wanted_P], mixed_QX[wanted_P]
                parts = self._parts(depth, _wanted_runs(runs, wanted_P))
            x_QD = _linear(mixed_QX, parts, "o").add_(x_QD)
            x_QD = _mlp(x_QD, parts)
        logits_PV = torch.mm(_normed(x_QD, self._norm), self._head_VD.t())
        return logits_PV if self._head_bias is None else logits_PV.add_(self._head_bias)

    def _parts(self, depth: int, runs: Sequence[tuple[int, slice]]) -> Parts:
        return [(self._variants[variant][depth], rows) for variant, rows in runs]


def _runs(feeds: Sequence[Feed]) -> list[tuple[int, slice]]:
    """Variant and tokens of each run of feeds that share one."""
    runs: list[tuple[int, slice]] = []
    end = 0
    for feed in feeds:
        begin, end = end, end + len(feed.tokens)
        if runs and runs[-1][0] == feed.variant:
            begin = runs.pop()[1].start
        runs.append((feed.variant, slice(begin, end)))
    return runs


def _wanted_runs(runs: Sequence[tuple[int, slice]], wanted_P: torch.Tensor) -> list[tuple[int, slice]]:
    """The runs among the wanted tokens."""
    if len(runs) == 1:
        return [(runs[0][0], slice(0, len(wanted_P)))]
    ends = torch.searchsorted(wanted_P, torch.tensor([rows.stop for _, rows in runs])).tolist()
    found = zip(runs, [0, *ends[:-1]], ends, strict=True)
    return [(variant, slice(begin, end)) for (variant, _), begin, end in found]


def _attend(
    x_QD: torch.Tensor,
    parts: Parts,
    layout: Layout,
    rotary: tuple[torch.Tensor, torch.Tensor],
    k_BCGK: torch.Tensor,
    v_BCGK: torch.Tensor,
) -> torch.Tensor:
    """What attention mixes for each token, [Q, H * K]; its keys and values go into the slots."""
    layer = parts[0][0]
    num_tokens, width = x_QD.shape[0], layer.head_width
    h_QD = _normed(x_QD, layer.input_norm)
    q_QHK = _linear(h_QD, parts, "q").view(num_tokens, -1, width)
    k_QGK = _linear(h_QD, parts, "k").view(num_tokens, -1, width)
    v_QX = _linear(h_QD, parts, "v")
    if layer.q_norm is not None and layer.k_norm is not None:
        q_QHK, k_QGK = _normed(q_QHK, layer.q_norm), _normed(k_QGK, layer.k_norm)
    q_QHK = rotate(q_QHK, *rotary, out=torch.empty_like(q_QHK))
    k_QGK = rotate(k_QGK, *rotary, out=torch.empty_like(k_QGK))
    k_BCGK.view(-1, v_QX.shape[1]).index_copy_(0, layout.places_Q, k_QGK.flatten(1))
    v_BCGK.view(-1, v_QX.shape[1]).index_copy_(0, layout.places_Q, v_QX)
    if len(layout.groups) == 1 and layout.groups[0].is_dense:
        return _grouped(q_QHK, k_BCGK, v_BCGK, layout.groups[0], scaling=layer.scaling).flatten(1)
    mixed_QHK = torch.empty_like(q_QHK)
    for group in layout.groups:
        padded = q_QHK.new_zeros(group.num_slots * group.width, *q_QHK.shape[1:])
        padded.index_copy_(0, group.place_n, q_QHK[group.rows_n])
        out = _grouped(padded, k_BCGK, v_BCGK, group, scaling=layer.scaling)
        mixed_QHK.index_copy_(0, group.rows_n, out[group.place_n])
    return mixed_QHK.flatten(1)


def _grouped(
    q_NHK: torch.Tensor, k_BCGK: torch.Tensor, v_BCGK: torch.Tensor, group: Group, *, scaling: float
) -> torch.Tensor:
    """Attention of a group's padded queries, [num_slots * W, H, K]; the heads of a key head are more queries of it."""
    num_slots, num_queries = group.num_slots, group.width
    num_heads, width = q_NHK.shape[1:]
    num_key_heads = k_BCGK.shape[2]
    num_shared = num_heads // num_key_heads
    q = q_NHK.view(num_slots, num_queries, num_key_heads, num_shared, width).permute(0, 2, 3, 1, 4)
    if group.slots is None:
        k, v = k_BCGK[:num_slots, : group.num_keys], v_BCGK[:num_slots, : group.num_keys]
    else:
        k, v = (values[:, : group.num_keys].index_select(0, group.slots) for values in (k_BCGK, v_BCGK))
    out = torch.nn.functional.scaled_dot_product_attention(
        q.reshape(num_slots, num_key_heads, num_shared * num_queries, width),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=group.mask(num_shared),
        scale=scaling,
    )
    out = out.view(num_slots, num_key_heads, num_shared, num_queries, width).permute(0, 3, 1, 2, 4)
    return out.reshape(-1, num_heads, width)


def _mlp(x_QD: torch.Tensor, parts: Parts) -> torch.Tensor:
    layer = parts[0][0]
    h_QD = _normed(x_QD, layer.post_norm)
    gate_QM = _linear(h_QD, parts, "gate")
    product_QM = activate(gate_QM, layer.activation, out=gate_QM).mul_(_linear(h_QD, parts, "up"))
    return _linear(product_QM, parts, "down").add_(x_QD)


def _normed(x: torch.Tensor, norm: NormWeights) -> torch.Tensor:
    return rms_norm(x, rms_scale(x, norm), norm, out=torch.empty_like(x))


def _linear(x_QI: torch.Tensor, parts: Parts, name: str) -> torch.Tensor:
    base: LinearWeights = getattr(parts[0][0], name)
    out_QO = torch.nn.functional.linear(x_QI, base.weight_OI, base.bias_O)
    for layer, rows in parts:
        lora = getattr(layer, name).lora
        if lora is None:
            continue
        own_QI, own_QO = (x_QI, out_QO) if len(parts) == 1 else (x_QI[rows], out_QO[rows])
        own_QO.addmm_(torch.mm(own_QI, lora.a_RI.t()).mul_(lora.scaling), lora.b_OR.t())
    return out_QO
