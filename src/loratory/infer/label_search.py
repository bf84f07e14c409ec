"""The likeliest label of one row by branch and bound over the trie: exact, because log-probabilities only fall.

A label whose beginning is already less likely than a complete label cannot win, so its rest is never computed. Pure
bookkeeping: what it asks for is computed elsewhere and told back.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from loratory.infer.label_set import Node


@dataclass(frozen=True, slots=True)
class Query:
    """What a row wants computed.

    Attributes:
        keep: Label tokens computed last time that still stand.
        nodes: Nodes whose tokens follow them, to be computed; the last `num_new` are asked about.
        num_new: How many are asked about; 1 more when the prompt's end (the root) is, which has no token of its own.
    """

    keep: int
    nodes: tuple[int, ...]
    num_new: int


class LabelSearch:
    """Best-first search of one row.

    Args:
        trie: Nodes of the label trie.

    Attributes:
        best: Log-probability and index of the likeliest complete label so far; None before there is one.
    """

    def __init__(self, trie: Sequence[Node]) -> None:
        self._trie = trie
        self._open: list[tuple[float, int]] = [(-0.0, 0)]
        self._path: tuple[int, ...] = ()
        self._asked: tuple[int, ...] = ()
        self._bound = 0.0
        self.best: tuple[float, int] | None = None

    def ask(self) -> Query | None:
        """The most promising node and the unbranched tokens behind it; None when the best label is certain."""
        if not self._open or (self.best is not None and -self._open[0][0] < self.best[0]):
            return None
        loss, node = heapq.heappop(self._open)
        self._bound = -loss
        asked = [node]
        while len(children := self._trie[asked[-1]].children) == 1 and self._trie[children[0]].children:
            asked.append(children[0])
        self._asked = tuple(asked)
        path = [*self._ancestors(node), *asked][1:]  # the root has no token
        keep = next((i for i, (a, b) in enumerate(zip(path, self._path, strict=False)) if a != b), None)
        keep = min(len(path), len(self._path)) if keep is None else keep
        keep = min(keep, self._trie[node].depth - 1) if node else 0
        self._path = tuple(path)
        return Query(keep=keep, nodes=tuple(path[keep:]), num_new=len(asked))

    @property
    def targets(self) -> list[list[int]]:
        """Tokens whose log-probability is wanted behind each node asked about."""
        return [[self._trie[child].token for child in self._trie[node].children] for node in self._asked]

    def tell(self, logprobs: Sequence[Sequence[float]]) -> None:
        """Take the log-probabilities of `targets`."""
        bound = self._bound
        for node, values in zip(self._asked, logprobs, strict=True):
            children = self._trie[node].children
            going_on = -1 if node == self._asked[-1] else children[0]
            for child, value in zip(children, values, strict=True):
                total = bound + value
                label = self._trie[child].label
                if child == going_on:
                    bound = total
                elif label is None:
                    heapq.heappush(self._open, (-total, child))
                elif self.best is None or (total, -label) > (self.best[0], -self.best[1]):
                    self.best = (total, label)

    def _ancestors(self, node: int) -> list[int]:
        chain: list[int] = []
        while (node := self._trie[node].parent) >= 0:
            chain.append(node)
        return chain[::-1]
