"""The likeliest label of many rows on flat tokens: each pass takes what every row's search asks for next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from loratory.infer.flat.model import FlatModel
from loratory.infer.flat.prompts import PromptQueue
from loratory.infer.flat.slots import Feed
from loratory.infer.label_search import LabelSearch
from loratory.infer.label_set import LabelSet, build_trie


@dataclass(slots=True)
class _Row:
    """A row in its slot: its search, its next feed, and how many of the feed's last tokens are asked about."""

    index: int
    prompt_length: int
    search: LabelSearch
    feed: Feed
    num_new: int


def search_flat(
    model: FlatModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelSet,
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None,
) -> list[tuple[int, float]]:
    """The likeliest label of each prompt and its log-probability in nats."""
    trie = build_trie(labels)
    queue = PromptQueue(model, prompts, num_slots=batch_size)
    results: dict[int, tuple[int, float]] = {}
    rows: list[_Row] = []
    while True:
        for index, feed in queue.admit():
            search = LabelSearch(trie)
            query = search.ask()
            assert query is not None
            tokens = [*feed.tokens, *(trie[node].token for node in query.nodes)]
            rows.append(_Row(index, len(prompts[index]), search, Feed(feed.slot, feed.start, tokens), query.num_new))
        if not rows:
            return [results[index] for index in range(len(prompts))]
        rows.sort(key=lambda row: row.feed.slot)
        _compute(model, queue, rows)
        live: list[_Row] = []
        for row in rows:
            query = row.search.ask()
            if query is None:
                assert row.search.best is not None
                results[row.index] = (row.search.best[1], row.search.best[0])
                queue.free.append(row.feed.slot)
                continue
            tokens = [trie[node].token for node in query.nodes]
            row.feed, row.num_new = Feed(row.feed.slot, row.prompt_length + query.keep, tokens), query.num_new
            live.append(row)
        if on_progress is not None and len(live) < len(rows):
            on_progress(len(results))
        rows = live
        if queue.compact([row.feed.slot for row in rows]):
            for slot, row in enumerate(rows):
                row.feed = Feed(slot, row.feed.start, row.feed.tokens)


def _compute(model: FlatModel, queue: PromptQueue, rows: Sequence[_Row]) -> None:
    """Run one pass and tell each row's search what it asked for."""
    wanted: list[int] = []
    places: list[int] = []
    tokens: list[int] = []
    end = 0
    for row in rows:
        end += len(row.feed.tokens)
        for behind, targets in zip(range(row.num_new, 0, -1), row.search.targets, strict=True):
            places += [len(wanted)] * len(targets)
            tokens += targets
            wanted.append(end - behind)
    logits_PV = model.run(queue.slots, [row.feed for row in rows], torch.tensor(wanted))
    places_N = torch.tensor(places)
    values = (logits_PV[places_N, torch.tensor(tokens)] - logits_PV.logsumexp(dim=-1)[places_N]).tolist()
    taken = 0
    for row in rows:
        told = []
        for targets in row.search.targets:
            told.append(values[taken : taken + len(targets)])
            taken += len(targets)
        row.search.tell(told)
