"""Forward and backward passes without data: what autograd keeps, and what the layers compute, by the model's own code.

On the meta device operations have shapes and no numbers, so a pass takes no memory and next to no time, whatever the
family or adapter. Passes of two lengths, and of two depths where layers are alike, give each figure as a line over the
number of tokens.
"""

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from loratory.engine.forecast.heap import Heap
from loratory.tree.registry import IMPLEMENTATION

# Many enough that what does not grow with tokens, such as an adapter's own weights, hides nothing that does.
_TOKENS, _ROW_TOKENS = 512, 64
_TRACED_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Line:
    """A figure that grows with the tokens of a pass, per token and besides."""

    per_token: float
    besides: float


@dataclass(frozen=True, slots=True)
class Traced:
    """What the body does in a pass.

    Attributes:
        tensors: Bytes of tensors that the forward pass leaves for the backward pass.
        heap: Bytes of the heap around them.
        flops: Operations of matrix products, forward and backward; None where no backward pass was made.
        moved: Bytes that all other operations read and write; None likewise.
    """

    tensors: Line
    heap: Line
    flops: Line | None
    moved: Line | None


def trace(base: PreTrainedModel, *, backward: bool = False) -> Traced | None:
    """Pass through the body of a model, which is not changed; the same model is asked once.

    Products inside attention are not counted: the tree's are ours, and those of padded rows are batched products.

    Args:
        base: The transformers model in training, with an adapter's layers inside it.
        backward: Pass back as well, which tells the work.

    Returns:
        None where the model cannot run without data: families that look at values, packed weights.
    """
    known = _TRACED.setdefault(base, {})
    trained = sum(p.requires_grad for p in base.parameters())
    key = (str(base.config._attn_implementation), base.training, trained)
    if (*key, True) not in known and (*key, backward) not in known:
        known[*key, backward] = _trace(base, backward=backward)
    return known[*key, True] if (*key, True) in known else known[*key, backward]


_TRACED: weakref.WeakKeyDictionary[PreTrainedModel, dict[tuple[str, bool, int, bool], Traced | None]] = (
    weakref.WeakKeyDictionary()
)


def _trace(base: PreTrainedModel, *, backward: bool) -> Traced | None:
    layers = _equal_layers(base)
    if layers is None:
        return _trace_tokens(base, backward=backward)
    name, found = layers
    counts = (_TRACED_LAYERS, 2 * _TRACED_LAYERS)
    try:
        traces = []
        for count in counts:
            setattr(base.base_model, name, torch.nn.ModuleList(list(found)[:count]))
            traces.append(_trace_tokens(base, backward=backward))
    finally:
        setattr(base.base_model, name, found)
    few, many = traces
    if few is None or many is None:
        return None
    times = (len(found) - counts[0]) / (counts[1] - counts[0])
    return Traced(
        tensors=_beyond(few.tensors, many.tensors, times),
        heap=_beyond(few.heap, many.heap, times),
        flops=None if few.flops is None or many.flops is None else _beyond(few.flops, many.flops, times),
        moved=None if few.moved is None or many.moved is None else _beyond(few.moved, many.moved, times),
    )


def _beyond(few: Line, many: Line, times: float) -> Line:
    besides = few.besides + times * (many.besides - few.besides)
    return Line(few.per_token + times * (many.per_token - few.per_token), max(0.0, besides))


def _equal_layers(base: PreTrainedModel) -> tuple[str, torch.nn.ModuleList] | None:
    """The body's list of decoder layers, if they are many and of the same shapes."""
    for name, child in base.base_model.named_children():
        if isinstance(child, torch.nn.ModuleList) and len(child) == base.config.get_text_config().num_hidden_layers:
            shapes = [[(p.shape, p.requires_grad) for p in layer.parameters()] for layer in child]
            is_many = len(child) > 2 * _TRACED_LAYERS
            return (name, child) if is_many and all(each == shapes[0] for each in shapes) else None
    return None


def _trace_tokens(base: PreTrainedModel, *, backward: bool) -> Traced | None:
    few, many = (_pass(base, num_tokens, backward=backward) for num_tokens in (_TOKENS, 2 * _TOKENS))
    if few is None or many is None or many.num_bytes <= few.num_bytes:
        return None
    return Traced(
        tensors=_line(few.num_bytes, many.num_bytes),
        heap=_line(few.heap_bytes, many.heap_bytes),
        flops=None if few.flops is None or many.flops is None else _line(few.flops, many.flops),
        moved=None if few.moved is None or many.moved is None else _line(few.moved, many.moved),
    )


def _line(few: int, many: int) -> Line:
    per_token = (many - few) / _TOKENS
    return Line(per_token, max(0.0, few - per_token * _TOKENS))


@dataclass(frozen=True, slots=True)
class _Pass:
    """Figures of one pass; see `Traced`."""

    num_bytes: int
    heap_bytes: int
    flops: int | None
    moved: int | None


_NOT_WITHOUT_DATA = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError, KeyError)


def _pass(base: PreTrainedModel, num_tokens: int, *, backward: bool) -> _Pass | None:
    body = base.base_model
    if not any(p.requires_grad for p in body.parameters()):
        return None
    tensors = {
        name: torch.empty_like(t, device="meta").requires_grad_(t.requires_grad)
        for name, t in (*body.named_parameters(remove_duplicate=False), *body.named_buffers(remove_duplicate=False))
    }
    watch, work = _Watch({t.untyped_storage()._cdata for t in tensors.values()}), _Work()
    with _own_tables(base), _without_checkpointing(base):
        try:
            with work if backward else contextlib.nullcontext(), watch:
                output = functional_call(body, tensors, kwargs=_arguments(base, num_tokens))
        except _NOT_WITHOUT_DATA:
            return None
        kept = watch.num_bytes, watch.heap.size
        if not backward:
            return _Pass(*kept, flops=None, moved=None)
        try:
            with work:
                output[0].backward(torch.empty_like(output[0]))
        except _NOT_WITHOUT_DATA:
            return _Pass(*kept, flops=None, moved=None)
    return _Pass(*kept, flops=work.flops, moved=work.moved_bytes)


@contextlib.contextmanager
def _own_tables(base: PreTrainedModel) -> Iterator[None]:
    """Some adapters (SHiRA) move tensors that they hold beside their parameters to the device of the moment."""
    tables = [
        (table, dict(table))
        for module in base.base_model.modules()
        for table in vars(module).values()
        if isinstance(table, dict) and any(type(value) is torch.Tensor for value in table.values())
    ]
    try:
        yield
    finally:
        for table, content in tables:
            table.update(content)


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
        for t in _tensors(out):
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


class _Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.moved_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        out = func(*args, **keywords)
        packet = func._overloadpacket
        if packet in _PRODUCTS:
            self.flops += flop_registry[packet](*args, **keywords, out_val=out)
        elif not func.is_view and packet not in _LOOKUPS:
            self.moved_bytes += sum(t.numel() * t.element_size() for t in (*_tensors(args), *_tensors(out)))
        return out


_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm)  # attention multiplies by `bmm`
_LOOKUPS = (torch.ops.aten.embedding,)  # reads a few rows of its table


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


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
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors)
