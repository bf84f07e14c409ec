"""The decoder on flat tokens: one pass holds the next token of each row and pieces of prompts that are coming in.

What a slot computed stays after its row has left: a row that begins alike (the next turn of a chat, a system prompt,
several answers to one prompt) takes it over instead of computing it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loratory.infer.flat.model import FlatModel
from loratory.infer.flat.slots import Feed, KeyValueSlots
from loratory.infer.padded_rows import MIN_SHARED_TOKENS

PASS_TOKENS = 256
"""Prompt tokens in one pass: longer prompts go in by pieces, and the rows beside them go on meanwhile."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A slot and what it holds.

    Attributes:
        index: Its number.
        row: The row in it, or None.
        variant: What computed its keys and values.
        tokens: Tokens of the row, or of the last one that was here.
        num_done: How many of them have their keys and values.
        last_used: When a row came in last, by a counter.
        is_begun: Whether anything of its row was computed.
    """

    index: int
    row: int | None = None
    variant: int = 0
    tokens: tuple[int, ...] | list[int] = ()
    num_done: int = 0
    last_used: int = 0
    is_begun: bool = False


class FlatDecoder:
    """See `loratory.infer.server.decoder.Decoder`.

    Args:
        model: The base with its variants.
        num_slots: How many rows stand side by side.
    """

    def __init__(self, model: FlatModel, *, num_slots: int) -> None:
        self.num_slots = num_slots
        self._model = model
        self._clock = 0
        self.reset()

    def reset(self) -> None:
        """Drop all rows and all that is kept of earlier ones."""
        self._values: KeyValueSlots = self._model.new_slots(self.num_slots)
        self._slots = [_Slot(index) for index in range(self.num_slots)]
        self._slot_of: dict[int, _Slot] = {}

    def admit(self, row: int, prompt: Sequence[int], *, variant: int) -> None:
        """Give a row the free slot that holds most of it already, else the one that was not used for longest."""
        free = [slot for slot in self._slots if slot.row is None]
        slot = max(free, key=lambda slot: (_known(slot, prompt, variant), -slot.last_used, -slot.index))
        self._clock += 1
        slot.num_done = _known(slot, prompt, variant)
        slot.row, slot.variant, slot.tokens, slot.last_used = row, variant, list(prompt), self._clock
        slot.is_begun = False
        self._slot_of[row] = slot

    def step(self) -> tuple[list[int], torch.Tensor]:
        """Run one pass."""
        feeds: list[Feed] = []
        ready: list[int] = []
        wanted: list[int] = []
        num_fed = 0
        for slot, num_tokens in sorted(self._plan(), key=lambda plan: (plan[0].variant, plan[0].index)):
            end = slot.num_done + num_tokens
            feeds.append(Feed(slot.index, slot.num_done, slot.tokens[slot.num_done : end], slot.variant))
            slot.num_done = end
            num_fed += num_tokens
            if end == len(slot.tokens):
                assert slot.row is not None
                ready.append(slot.row)
                wanted.append(num_fed - 1)
        return ready, self._model.run(self._values, feeds, torch.tensor(wanted, dtype=torch.int64))

    def extend(self, row: int, token: int) -> None:
        """The row's next token."""
        tokens = self._slot_of[row].tokens
        assert isinstance(tokens, list)
        tokens.append(token)

    def drop(self, row: int) -> None:
        """Free the row's slot; what it computed is kept for a row that begins alike."""
        slot = self._slot_of.pop(row)
        slot.row = None
        slot.tokens = tuple(slot.tokens[: slot.num_done])

    def _plan(self) -> list[tuple[_Slot, int]]:
        """How many tokens of each slot go into the next pass, the first to come being served first."""
        plan = []
        budget = PASS_TOKENS
        coming: list[_Slot] = []
        for slot in sorted(self._slot_of.values(), key=lambda slot: slot.last_used):
            if not slot.is_begun:
                if self._waits_for(slot, coming):
                    continue
                if budget:
                    self._take_over(slot)
            num_left = len(slot.tokens) - slot.num_done
            if num_left == 1 and slot.is_begun:
                plan.append((slot, 1))
                continue
            coming.append(slot)
            if budget:
                plan.append((slot, min(num_left, budget)))
                budget -= plan[-1][1]
                slot.is_begun = True
        return plan

    @staticmethod
    def _waits_for(slot: _Slot, coming: Sequence[_Slot]) -> bool:
        """Whether a prompt on its way in will soon have computed what this one begins with."""
        return any(
            other.variant == slot.variant
            and _alike(other.tokens, slot.tokens) >= max(slot.num_done, other.num_done) + MIN_SHARED_TOKENS
            for other in coming
        )

    def _take_over(self, slot: _Slot) -> None:
        """Copy the beginning from the slot that holds most of it."""
        best = max(self._slots, key=lambda other: _known(other, slot.tokens, slot.variant))
        length = _known(best, slot.tokens, slot.variant)
        if best is not slot and length >= slot.num_done + MIN_SHARED_TOKENS:
            self._values.copy(best.index, [slot.index], length=length)
            slot.num_done = length


def _known(slot: _Slot, tokens: Sequence[int], variant: int) -> int:
    """How many tokens at the beginning of a row a slot has computed; the last one is always computed anew."""
    if slot.variant != variant:
        return 0
    return min(_alike(slot.tokens, tokens), slot.num_done, len(tokens) - 1)


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    limit = min(len(first), len(second))
    if list(first[:limit]) == list(second[:limit]):
        return limit
    return next(place for place in range(limit) if first[place] != second[place])
