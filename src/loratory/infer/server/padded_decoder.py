"""The decoder for families without flat layers: a padded batch for each variant, through the model's own forward.

Rows join by being padded on the left to the batch's width. Where a cache cannot be joined exactly (sliding windows,
recurrent states) a row is a batch of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from loratory.infer.server.variants import Variants


@dataclass(slots=True, eq=False)
class _Batch:
    """Rows that are computed together; `mask_BT` is 1 for real tokens."""

    variant: int
    rows: list[int]
    mask_BT: torch.Tensor
    positions_B: torch.Tensor
    cache: DynamicCache


class PaddedDecoder:
    """See `loratory.infer.server.decoder.Decoder`.

    Args:
        variants: The model.
        num_slots: How many rows stand side by side.
    """

    def __init__(self, variants: Variants, *, num_slots: int) -> None:
        self.num_slots = num_slots
        self._variants = variants
        cache = DynamicCache(config=variants.base.config)
        self._is_joinable = all(type(layer) is DynamicLayer for layer in cache.layers)
        self.reset()

    def reset(self) -> None:
        """Drop all rows."""
        self._batches: list[_Batch] = []
        self._prompts: dict[int, tuple[list[int], int]] = {}
        self._next: dict[int, int] = {}

    def admit(self, row: int, prompt: Sequence[int], *, variant: int) -> None:
        """Take a row's prompt, which the next pass computes."""
        self._prompts[row] = (list(prompt), variant)

    def step(self) -> tuple[list[int], torch.Tensor]:
        """Compute all prompts that came in, or else one token of each row."""
        if self._prompts:
            rows, logits = self._begin()
        else:
            rows, logits = [], []
            for batch in self._batches:
                rows += batch.rows
                logits.append(self._advance(batch))
        return rows, torch.cat(logits)

    def extend(self, row: int, token: int) -> None:
        """The row's next token."""
        self._next[row] = token

    def drop(self, row: int) -> None:
        """Take a row out of its batch, and columns that only it needed out of the cache."""
        self._prompts.pop(row, None)
        self._next.pop(row, None)
        for batch in self._batches:
            if row in batch.rows:
                _keep(batch, [place for place, other in enumerate(batch.rows) if other != row])
        self._batches = [batch for batch in self._batches if batch.rows]

    def _begin(self) -> tuple[list[int], list[torch.Tensor]]:
        rows: list[int] = []
        logits = []
        for variant in sorted({variant for _, variant in self._prompts.values()}):
            own = [row for row, (_, other) in self._prompts.items() if other == variant]
            for group in [own] if self._is_joinable else [[row] for row in own]:
                batch, logits_BV = self._prefill(group, variant)
                rows += group
                logits.append(logits_BV)
                self._join(batch)
        self._prompts.clear()
        return rows, logits

    def _prefill(self, rows: list[int], variant: int) -> tuple[_Batch, torch.Tensor]:
        prompts = [self._prompts[row][0] for row in rows]
        width = max(map(len, prompts))
        device = self._variants.base.device
        tokens_BT = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._variants.base.config)
        batch = _Batch(variant, list(rows), mask_BT, positions_BT[:, -1], cache)
        return batch, self._forward(batch, tokens_BT, positions_BT)

    def _join(self, batch: _Batch) -> None:
        """Put the rows into the batch of their variant, if there is one."""
        other = next((b for b in self._batches if b.variant == batch.variant), None) if self._is_joinable else None
        if other is None:
            self._batches.append(batch)
            return
        width = max(other.mask_BT.shape[1], batch.mask_BT.shape[1])
        for mine, theirs in zip(other.cache.layers, batch.cache.layers, strict=True):
            assert isinstance(mine, DynamicLayer)
            assert isinstance(theirs, DynamicLayer)
            mine.keys = torch.cat([_widened(layer.keys, width) for layer in (mine, theirs)])
            mine.values = torch.cat([_widened(layer.values, width) for layer in (mine, theirs)])
        masks = [torch.nn.functional.pad(b.mask_BT, (width - b.mask_BT.shape[1], 0)) for b in (other, batch)]
        other.mask_BT = torch.cat(masks)
        other.positions_B = torch.cat([other.positions_B, batch.positions_B])
        other.rows += batch.rows

    def _advance(self, batch: _Batch) -> torch.Tensor:
        tokens_B1 = torch.tensor([[self._next[row]] for row in batch.rows], device=batch.mask_BT.device)
        batch.positions_B = batch.positions_B + 1
        batch.mask_BT = torch.nn.functional.pad(batch.mask_BT, (0, 1), value=1)
        return self._forward(batch, tokens_B1, batch.positions_B[:, None])

    def _forward(self, batch: _Batch, tokens_BT: torch.Tensor, positions_BT: torch.Tensor) -> torch.Tensor:
        self._variants.use(batch.variant)
        output = self._variants.base(
            input_ids=tokens_BT,
            attention_mask=batch.mask_BT if bool((batch.mask_BT == 0).any()) else None,
            position_ids=positions_BT,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV


def _widened(values_BHTK: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(values_BHTK, (0, 0, width - values_BHTK.shape[2], 0))


def _keep(batch: _Batch, places: list[int]) -> None:
    batch.rows = [batch.rows[place] for place in places]
    if not places:
        return
    index_B = torch.tensor(places, device=batch.mask_BT.device)
    batch.mask_BT = batch.mask_BT[index_B]
    batch.positions_B = batch.positions_B[index_B]
    batch.cache.batch_select_indices(index_B)
    surplus = int(batch.mask_BT.any(dim=0).int().argmax())
    if surplus:
        batch.mask_BT = batch.mask_BT[:, surplus:]
        for layer in batch.cache.layers:
            if type(layer) is DynamicLayer:
                layer.keys, layer.values = layer.keys[:, :, surplus:], layer.values[:, :, surplus:]
