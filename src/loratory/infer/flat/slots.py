"""Keys and values of rows that are being continued: one slot for each, and where a pass writes and reads in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

_CAPACITY_STEP = 64
_GATHER_BELOW = 3


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of one pass for one slot.

    Attributes:
        slot: Which slot.
        start: Tokens of the slot that stay; what it held behind them is overwritten.
        tokens: At least one token, continuing those.
        variant: Which of the model's variants computes them.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    variant: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Feeds whose attention is one batch of products.

    Attributes:
        rows_n: Flat tokens of the pass that belong to it.
        place_n: Their place among `num_slots * width` padded queries.
        slots: The slots, or None for the first `num_slots` in order.
        num_slots: How many slots.
        width: W, queries of each slot.
        num_keys: Most keys that any query sees.
        mask_BWT: bool [num_slots, W, num_keys], what each query sees.
        is_dense: The pass's tokens are the padded queries, none missing and in order.
    """

    rows_n: torch.Tensor
    place_n: torch.Tensor
    slots: torch.Tensor | None
    num_slots: int
    width: int
    num_keys: int
    mask_BWT: torch.Tensor
    is_dense: bool
    _masks: dict[int, torch.Tensor] = field(default_factory=dict)

    def mask(self, num_shared: int) -> torch.Tensor:
        """[num_slots, 1, S * W, num_keys] for S query heads per key head."""
        if num_shared not in self._masks:
            self._masks[num_shared] = self.mask_BWT.repeat(1, num_shared, 1).unsqueeze(1)
        return self._masks[num_shared]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the tokens of one pass stand.

    Attributes:
        tokens_Q: The tokens of all feeds, one behind the other.
        positions_Q: Their positions.
        places_Q: Their places in the slots, `slot * capacity + position`.
        groups: Which of them attend together.
    """

    tokens_Q: torch.Tensor
    positions_Q: torch.Tensor
    places_Q: torch.Tensor
    groups: tuple[Group, ...]


class KeyValueSlots:
    """Room for the keys and values of a number of rows in every layer; grows with the rows.

    Args:
        shapes: Key heads and head width of each layer.
        num_slots: How many rows.
        dtype: Of the keys and values.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], *, num_slots: int, dtype: torch.dtype) -> None:
        self.num_slots = num_slots
        self.capacity = _CAPACITY_STEP
        self.layers = [
            tuple(torch.zeros(num_slots, self.capacity, heads, width, dtype=dtype) for _ in "kv")
            for heads, width in shapes
        ]

    def place(self, feeds: Sequence[Feed]) -> Layout:
        """Lay out a pass, making room where it is needed."""
        self._grow(max(feed.start + len(feed.tokens) for feed in feeds))
        lengths = [len(feed.tokens) for feed in feeds]
        lengths_F = torch.tensor(lengths)
        ends_F = lengths_F.cumsum(0)
        slot_Q = torch.repeat_interleave(torch.tensor([feed.slot for feed in feeds]), lengths_F)
        begin_Q = torch.repeat_interleave(torch.tensor([feed.start for feed in feeds]) - ends_F + lengths_F, lengths_F)
        positions_Q = torch.arange(int(ends_F[-1])) + begin_Q
        firsts = (ends_F - lengths_F).tolist()
        singles = [index for index, length in enumerate(lengths) if length == 1]
        others = [index for index, length in enumerate(lengths) if length > 1]
        groups = []
        if singles:
            # Idle slots between live ones take part, so that keys need not be gathered: they see one key and their
            # output is not read. Where most of them are idle, gathering is cheaper.
            num_spanned = 1 + max(feeds[index].slot for index in singles)
            groups.append(self._group(feeds, firsts, singles, is_whole=len(singles) * _GATHER_BELOW > num_spanned))
        if others:
            groups.append(self._group(feeds, firsts, others, is_whole=False))
        return Layout(
            tokens_Q=torch.tensor([token for feed in feeds for token in feed.tokens]),
            positions_Q=positions_Q,
            places_Q=slot_Q * self.capacity + positions_Q,
            groups=tuple(groups),
        )

    def _group(self, feeds: Sequence[Feed], firsts: Sequence[int], chosen: Sequence[int], *, is_whole: bool) -> Group:
        width = max(len(feeds[index].tokens) for index in chosen)
        num_keys = max(feeds[index].start + len(feeds[index].tokens) for index in chosen)
        num_slots = 1 + max(feeds[index].slot for index in chosen) if is_whole else len(chosen)
        starts_B = torch.zeros(num_slots, dtype=torch.int64)
        rows, places = [], []
        for order, index in enumerate(chosen):
            place = feeds[index].slot if is_whole else order
            starts_B[place] = feeds[index].start
            rows.append(torch.arange(firsts[index], firsts[index] + len(feeds[index].tokens)))
            places.append(torch.arange(len(feeds[index].tokens)) + place * width)
        last_BW = starts_B[:, None] + torch.arange(width)
        place_n = torch.cat(places)
        return Group(
            rows_n=torch.cat(rows),
            place_n=place_n,
            slots=None if is_whole else torch.tensor([feeds[index].slot for index in chosen]),
            num_slots=num_slots,
            width=width,
            num_keys=num_keys,
            mask_BWT=torch.arange(num_keys) <= last_BW[:, :, None],
            is_dense=torch.equal(place_n, torch.arange(num_slots * width)),
        )

    def spread(self, length: int) -> None:
        """Copy the first `length` tokens of slot 0 to all slots."""
        self.copy(0, range(1, self.num_slots), length=length)

    def copy(self, source: int, slots: Sequence[int], *, length: int) -> None:
        """Copy the first `length` tokens of a slot to others."""
        for layer in self.layers:
            for values in layer:
                for slot in slots:
                    values[slot, :length] = values[source, :length]

    def keep(self, slots: Sequence[int]) -> None:
        """Drop all slots but these, which are numbered anew in this order."""
        kept = torch.tensor(slots)
        self.layers = [tuple(values.index_select(0, kept) for values in layer) for layer in self.layers]
        self.num_slots = len(slots)

    def _grow(self, length: int) -> None:
        if length <= self.capacity:
            return
        old, self.capacity = self.capacity, -(-(length + length // 4) // _CAPACITY_STEP) * _CAPACITY_STEP
        for index, layer in enumerate(self.layers):
            grown = []
            for values in layer:
                wider = values.new_zeros(self.num_slots, self.capacity, *values.shape[2:])
                wider[:, :old] = values
                grown.append(wider)
            self.layers[index] = tuple(grown)
