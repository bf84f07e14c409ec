"""Letting rows into slots: what all prompts share is computed once, and a row that is done makes room for the next."""

from collections.abc import Sequence

import torch

from loratory.infer.flat.model import FlatModel
from loratory.infer.flat.slots import Feed, KeyValueSlots

MAX_PASS_TOKENS = 2048
"""Prompt tokens in one pass: bounds its memory, and a long prompt goes in by pieces."""


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, at least one left to each; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    # Of all token sequences the least and the greatest differ earliest.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    limit = min(map(len, prompts)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


class PromptQueue:
    """Slots, and the prompts waiting for one: the longest first, so that rows side by side are of similar length.

    Args:
        model: The model.
        prompts: Token ids of all prompts.
        num_slots: How many rows stand side by side.

    Attributes:
        slots: Keys and values; every slot begins with what the prompts share.
        free: Slots without a row.
    """

    def __init__(self, model: FlatModel, prompts: Sequence[Sequence[int]], *, num_slots: int) -> None:
        self.slots: KeyValueSlots = model.new_slots(min(num_slots, len(prompts)))
        self.free = list(range(self.slots.num_slots))[::-1]
        self._model = model
        self._prompts = prompts
        self._shared = shared_length(prompts)
        # Equal prompts stand beside each other.
        self._waiting = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), tuple(prompts[row]), -row))
        self._feed_all(0, prompts[0][: self._shared], start=0)
        self.slots.spread(self._shared)

    def admit(self) -> list[tuple[int, Feed]]:
        """Rows that begin in the next pass, each with the feed that ends its prompt; as many as slots and pass take."""
        admitted: list[tuple[int, Feed]] = []
        num_tokens = 0
        while self._waiting and self.free:
            prompt = self._prompts[self._waiting[-1]]
            num_equal = self._num_equal()
            num_tokens += min(len(prompt) - self._shared, MAX_PASS_TOKENS)
            if admitted and num_tokens > MAX_PASS_TOKENS:
                break
            first = self.free[-1]
            own = self._last_piece(len(prompt)) if num_equal == 1 else len(prompt) - 1
            start = self._feed_all(first, prompt[:own], start=self._shared)
            slots = [self.free.pop() for _ in range(num_equal)]
            if num_equal > 1:
                self.slots.copy(first, slots[1:], length=start)
            admitted += [(self._waiting.pop(), Feed(slot, start, prompt[start:])) for slot in slots]
        return admitted

    def _num_equal(self) -> int:
        """How many of the rows to come, as far as there are slots, have the next one's prompt."""
        prompt = tuple(self._prompts[self._waiting[-1]])
        coming = self._waiting[-1 : -len(self.free) - 1 : -1]
        return next((n for n, row in enumerate(coming) if tuple(self._prompts[row]) != prompt), len(coming))

    def compact(self, occupied: Sequence[int]) -> bool:
        """Give up free slots when nobody waits and half of them are free; True if occupied ones are numbered anew."""
        if self._waiting or not occupied or 2 * len(occupied) > self.slots.num_slots:
            return False
        self.slots.keep(occupied)
        self.free = []
        return True

    def _last_piece(self, length: int) -> int:
        """Where the last piece of a prompt begins that is too long for one pass."""
        num_before = (length - self._shared - 1) // MAX_PASS_TOKENS
        return self._shared + num_before * MAX_PASS_TOKENS

    def _feed_all(self, slot: int, tokens: Sequence[int], *, start: int) -> int:
        """Feed `tokens[start:]` piece by piece; returns where they end."""
        nothing = torch.zeros(0, dtype=torch.int64)
        for begin in range(start, len(tokens), MAX_PASS_TOKENS):
            self._model.run(self.slots, [Feed(slot, begin, tokens[begin : begin + MAX_PASS_TOKENS])], nothing)
        return max(start, len(tokens))
