"""What one token keeps in memory until the backward pass, by path.

The fused layers' list is our own and counted from the shapes. What the model's own layers keep is asked of autograd: a
forward pass without data (meta device) tells every tensor that stays, whatever the family or adapter; `heap` tells
how much room the C library takes for them.
"""

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from loratory.engine.forecast.heap import Heap
from loratory.engine.forecast.model_size import ModelSize, activation_itemsize
from loratory.tree.registry import IMPLEMENTATION

# Many enough that what does not grow with tokens, such as an adapter's own weights, hides nothing that does.
_TOKENS, _ROW_TOKENS = 512, 64
_TRACED_LAYERS = 2
# Measured with PEFT on 135M shapes: 1.4 MiB per token without logits, where the fused layers save 0.66.
_PLAIN_LAYERS_FACTOR = 2.1
# The heap around tensors, where a pass cannot be traced; see `heap`.
_HEAP_FACTOR = 1.5
# Recomputing layer by layer leaves holes of all sizes; measured: about three layers' worth of heap besides the inputs.
_RECOMPUTED_LAYERS = 3


@dataclass(frozen=True, slots=True)
class KeptPerToken:
    """Bytes per token.

    Attributes:
        kept_bytes: Kept for the backward pass by all layers.
        last_rows_bytes: The part of these that the last layer keeps of predictors only.
        moment_bytes: Alive for a moment in the backward pass of one layer.
        read_bytes: Tensors that the backward pass reads; with gradient checkpointing those that are made again.
        pass_bytes: Kept by a pass whatever its tokens, such as updated weights that an adapter computes with.
    """

    kept_bytes: float
    last_rows_bytes: float
    moment_bytes: float
    read_bytes: float
    pass_bytes: float = 0.0


def kept_per_token(
    base: PreTrainedModel, size: ModelSize, *, path: str, gradient_checkpointing: bool, is_mixed: bool, on_cpu: bool
) -> KeptPerToken:
    """Count for one path.

    Args:
        base: The transformers model in training, with an adapter's layers inside it; not changed.
        size: Its sizes.
        path: The scorer's.
        gradient_checkpointing: Only the layers' inputs are kept, and one layer's inside.
        is_mixed: Autocast.
        on_cpu: Count the heap's holes too; GPU memory has next to none.
    """
    itemsize = activation_itemsize(size, is_mixed=is_mixed)
    outputs = sum(linear.outputs for linear in size.linears)
    floats = max(outputs + size.num_layers * size.width, 10 * size.num_layers * size.width)
    largest = max((linear.outputs for linear in size.linears), default=size.width)
    if path == "fused":
        thin = sum(linear.adapter / (linear.inputs + linear.outputs) for linear in size.linears)
        last = [linear for linear in size.linears if linear.layer == size.num_layers - 1 and not linear.feeds_keys]
        rows = sum(linear.outputs for linear in last)
        moment = 3 * size.num_query_floats + 4 * size.width
        own = (floats + thin) * itemsize
        return KeptPerToken(own, rows * itemsize, moment * itemsize, own)
    traced = None if is_mixed else _traced(base)
    if traced is None:
        read = _PLAIN_LAYERS_FACTOR * floats * itemsize
        kept, constant = read * (_HEAP_FACTOR if on_cpu else 1.0), 0.0
    else:
        read, constant = traced.tensors
        kept, constant = traced.heap if on_cpu else (read, constant)
    if gradient_checkpointing:
        layers = _RECOMPUTED_LAYERS if on_cpu else 1
        layer = kept * layers / max(1, size.num_layers)
        return KeptPerToken(layer + size.num_layers * size.width * itemsize, 0.0, 3.0 * largest * itemsize, read)
    return KeptPerToken(kept, 0.0, 4.0 * largest * itemsize, read, constant)


@dataclass(frozen=True, slots=True)
class _Traced:
    """What the body keeps: bytes per token, and besides."""

    tensors: tuple[float, float]
    heap: tuple[float, float]


def _traced(base: PreTrainedModel) -> _Traced | None:
    """From passes without data; None where the model cannot run so. The same model is asked once."""
    known = _TRACED.setdefault(base, {})
    trained = sum(p.requires_grad for p in base.parameters())
    key = (str(base.config._attn_implementation), base.training, trained)
    if key not in known:
        known[key] = _trace(base)
    return known[key]


def _trace(base: PreTrainedModel) -> _Traced | None:
    layers = _equal_layers(base)
    if layers is None:
        return _trace_tokens(base)
    name, found = layers
    counts = (_TRACED_LAYERS, 2 * _TRACED_LAYERS)
    try:
        traces = []
        for count in counts:
            setattr(base.base_model, name, torch.nn.ModuleList(list(found)[:count]))
            traces.append(_trace_tokens(base))
    finally:
        setattr(base.base_model, name, found)
    few, many = traces
    if few is None or many is None:
        return None
    times = (len(found) - counts[0]) / (counts[1] - counts[0])
    return _Traced(_beyond(few.tensors, many.tensors, times), _beyond(few.heap, many.heap, times))


def _beyond(few: tuple[float, float], many: tuple[float, float], times: float) -> tuple[float, float]:
    per_token, besides = (x + times * (y - x) for x, y in zip(few, many, strict=True))
    return per_token, max(0.0, besides)


def _equal_layers(base: PreTrainedModel) -> tuple[str, torch.nn.ModuleList] | None:
    """The body's list of decoder layers, if they are many and of the same shapes."""
    for name, child in base.base_model.named_children():
        if isinstance(child, torch.nn.ModuleList) and len(child) == base.config.get_text_config().num_hidden_layers:
            shapes = [[(p.shape, p.requires_grad) for p in layer.parameters()] for layer in child]
            is_many = len(child) > 2 * _TRACED_LAYERS
            return (name, child) if is_many and all(each == shapes[0] for each in shapes) else None
    return None


def _trace_tokens(base: PreTrainedModel) -> _Traced | None:
    few, many = (_after_forward(base, num_tokens) for num_tokens in (_TOKENS, 2 * _TOKENS))
    if few is None or many is None or many.num_bytes <= few.num_bytes:
        return None
    return _Traced(_line(few.num_bytes, many.num_bytes), _line(few.heap_bytes, many.heap_bytes))


def _line(few: int, many: int) -> tuple[float, float]:
    per_token = (many - few) / _TOKENS
    return per_token, max(0.0, few - per_token * _TOKENS)


@dataclass(frozen=True, slots=True)
class _Occupied:
    """Bytes of tensors, and of the heap around them."""

    num_bytes: int
    heap_bytes: int


def _after_forward(base: PreTrainedModel, num_tokens: int) -> _Occupied | None:
    """What tokens occupy behind the body's forward pass."""
    body = base.base_model
    if not any(p.requires_grad for p in body.parameters()):
        return None
    tensors = {
        name: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)
        for name, t in (*body.named_parameters(remove_duplicate=False), *body.named_buffers(remove_duplicate=False))
    }
    watch = _Watch({t.untyped_storage()._cdata for t in tensors.values()})
    # Some adapters (SHiRA) move tensors that they hold beside their parameters to the device of the moment.
    tables = [
        (table, dict(table))
        for module in body.modules()
        for table in vars(module).values()
        if isinstance(table, dict) and any(type(value) is torch.Tensor for value in table.values())
    ]
    try:
        with _without_checkpointing(base), watch:
            output = functional_call(body, tensors, kwargs=_arguments(base, num_tokens))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return None  # families that look at values, and packed weights, have the estimate from shapes
    finally:
        for table, content in tables:
            table.update(content)
    occupied = _Occupied(watch.num_bytes, watch.heap.size)
    del output
    return occupied


@contextlib.contextmanager
def _without_checkpointing(base: PreTrainedModel) -> Iterator[None]:
    """A trace shows what layers keep; with checkpointing they would show what they are made again from."""
    inside = [module for module in base.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in inside:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in inside:
            module.gradient_checkpointing = True


_TRACED: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[str, bool, int], _Traced | None]] = (
    weakref.WeakKeyDictionary()
)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor that operations make, from its birth to its end."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.heap = Heap()
        self.num_bytes = 0
        self._own = own
        self._places: dict[int, tuple[int, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self._see(t.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if not size or key in self._own or key in self._places:
            return
        self._places[key] = (self.heap.take(size), size)
        self.num_bytes += size
        weakref.finalize(storage, self._lose, key).atexit = False

    def _lose(self, key: int) -> None:
        address, size = self._places.pop(key)
        self.heap.give(address)
        self.num_bytes -= size


def _arguments(base: PreTrainedModel, num_tokens: int) -> dict[str, Any]:
    if base.config._attn_implementation == IMPLEMENTATION:
        tokens = torch.zeros(1, num_tokens, dtype=torch.int64, device="meta")
        mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device="meta")
        return {
            "input_ids": tokens,
            "use_cache": False,
            "position_ids": tokens,
            "attention_mask": mask,
            "tree_attention": _attend,
        }
    tokens = torch.zeros(num_tokens // _ROW_TOKENS, _ROW_TOKENS, dtype=torch.int64, device="meta")
    mask = torch.empty(len(tokens), 1, _ROW_TOKENS, _ROW_TOKENS, dtype=torch.bool, device="meta")
    return {"input_ids": tokens, "use_cache": False, "attention_mask": mask}


def _attend(q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, *, scaling: float | None) -> torch.Tensor:
    """Stands for the tree's attention, which keeps copies of queries, keys and values."""
    out: torch.Tensor = _Kept.apply(q_THK, k_TGK, v_TGK)  # type: ignore[no-untyped-call]
    return out


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q.clone(), k.clone(), v.clone())
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, None]:
        return None, None, None
