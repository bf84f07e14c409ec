"""How attention on a token tree is cut into a few dense products: geometry only, no arithmetic on activations.

Every query attends to the tokens of its path. Long segments are cut into blocks that continue each other, and blocks
of similar shape form a tile: one batch of `B` products of `L` own tokens with the `P` path tokens before them and
with themselves. No mask of size T x T ever exists. Path tokens are copied for each block, which costs little: they
are rows of one head, and each is multiplied with all queries of its block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from loratory.tree.tree import Segment, TokenTree

MAX_BLOCK_TOKENS = 128
"""Longer segments are cut: a causal product over a block of L tokens wastes half of L x L."""

TILE_OVERHEAD_PAIRS = 2048
"""Query-key pairs that cost about as much as the calls of one more tile (forward and backward, 576 wide, 2 cores)."""

MAX_TILE_PAIRS = 262_144
"""Bounds the scores of one tile: pairs x heads x 4 bytes, 9 MB for 9 heads."""

MAX_KEPT_KEYS = 192
"""Tiles with up to this many keys keep their probabilities for the backward: at most a quarter more memory per token
and layer, for a quarter less work in attention."""

_Path = tuple[tuple[int, int], ...]
"""Ranges of flat tokens from the root on."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of a segment and the path before it."""

    start: int
    stop: int
    path: _Path
    path_length: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One batch of attention products.

    Attributes:
        num_blocks: B.
        length: L, own tokens of each block, padded on the right.
        path_length: P, tokens before the block, padded on the right.
        tokens: int64 [B * L], flat token index, T where padded.
        keys: int64 [B * (P + L)], path then own tokens, T where padded.
        has_one_path: All blocks have the same path, so P is nowhere padded.
        path_is_padding: bool [B, 1, P]; None when no path is padded.
    """

    num_blocks: int
    length: int
    path_length: int
    tokens: torch.Tensor
    keys: torch.Tensor
    has_one_path: bool
    path_is_padding: torch.Tensor | None
    _biases: dict[tuple[int, torch.dtype], torch.Tensor] = field(default_factory=dict)

    @property
    def keeps_probabilities(self) -> bool:
        """Whether the forward keeps them for the backward."""
        return self.path_length + self.length <= MAX_KEPT_KEYS

    def causal_bias(self, num_shared: int, dtype: torch.dtype) -> torch.Tensor:
        """[L * S, L]: -inf where the key is behind the query, for S query heads per key head; computed once."""
        key = (num_shared, dtype)
        if key not in self._biases:
            bias = torch.full((self.length, self.length), float("-inf"), dtype=dtype, device=self.tokens.device)
            self._biases[key] = bias.triu_(1).repeat_interleave(num_shared, dim=0)
        return self._biases[key]


@dataclass(frozen=True, slots=True, eq=False)
class TileRows:
    """A plan's indices for one number of key heads G; row `t * G + g` is token t of key head g.

    Attributes:
        padded: int64, query rows in tile order, (G, B, L) within each tile; rows behind the last query where padded.
        unpadded: int64 [number of queries * G], place in `padded` of each query row.
        tile_slices: The part of `padded` of each tile.
        keys: int64 [G * B * (P + L)] of each tile, key rows.
        paths: int64 of each tile, the rows that path gradients belong to: [G * P] when the tile has one path, else
            [G * B * P]; rows of token T where padded. None when P is 0.
    """

    padded: torch.Tensor
    unpadded: torch.Tensor
    tile_slices: tuple[slice, ...]
    keys: tuple[torch.Tensor, ...]
    paths: tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionPlan:
    """Tiles that together give every token its attention over its path.

    Attributes:
        num_tokens: T, tokens with keys.
        first_query: Tokens from this one on are queries; those before were computed elsewhere.
        tiles: See `Tile`.
    """

    num_tokens: int
    first_query: int
    tiles: tuple[Tile, ...]
    _rows: dict[int, TileRows] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        """Tokens that attend."""
        return self.num_tokens - self.first_query

    @classmethod
    def from_tree(cls, tree: TokenTree, *, first_query: int = 0) -> "AttentionPlan":
        """Plan the attention of a tree; a millisecond or so, once per micro-batch for all layers."""
        return cls.from_segments(tree.segments, first_query=first_query, device=tree.tokens_T.device)

    @classmethod
    def from_segments(
        cls,
        segments: Sequence[Segment],
        *,
        first_query: int = 0,
        max_block_tokens: int = MAX_BLOCK_TOKENS,
        device: torch.device | str = "cpu",
    ) -> "AttentionPlan":
        """Plan from segments in flat order, each parent before its children."""
        num_tokens = segments[-1].stop if segments else 0
        groups = _grouped(_blocks(segments, first_query, max_block_tokens))
        tiles = tuple(_tile(group, num_tokens, device) for group in groups)
        return cls(num_tokens=num_tokens, first_query=first_query, tiles=tiles)

    def rows(self, num_key_heads: int) -> TileRows:
        """Row indices for a layer with that many key heads; computed once."""
        if num_key_heads not in self._rows:
            self._rows[num_key_heads] = self._make_rows(num_key_heads)
        return self._rows[num_key_heads]

    def _make_rows(self, num_key_heads: int) -> TileRows:
        device = self.tiles[0].tokens.device if self.tiles else torch.device("cpu")
        heads_G1 = torch.arange(num_key_heads, device=device)[:, None]
        parts = [((tile.tokens - self.first_query) * num_key_heads + heads_G1).flatten() for tile in self.tiles]
        ends = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
        padded = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=device)
        place = torch.empty((self.num_queries + 1) * num_key_heads, dtype=torch.int64, device=device)
        place[padded] = torch.arange(len(padded), device=device)
        keys: list[torch.Tensor] = []
        paths: list[torch.Tensor | None] = []
        for tile in self.tiles:
            rows_GBS = (tile.keys * num_key_heads + heads_G1).view(num_key_heads, tile.num_blocks, -1)
            keys.append(rows_GBS.flatten())
            path_rows = rows_GBS[:, : 1 if tile.has_one_path else None, : tile.path_length]
            paths.append(path_rows.flatten() if tile.path_length else None)
        return TileRows(
            padded=padded,
            unpadded=place[: self.num_queries * num_key_heads],
            tile_slices=tuple(slice(start, stop) for start, stop in pairwise(ends)),
            keys=tuple(keys),
            paths=tuple(paths),
        )


def _blocks(segments: Sequence[Segment], first_query: int, max_block_tokens: int) -> list[_Block]:
    """All segments from the first query on, the long ones cut into nearly equal blocks."""
    blocks: list[_Block] = []
    path_behind: list[tuple[_Path, int]] = []
    for segment in segments:
        path, path_length = path_behind[segment.parent] if segment.parent >= 0 else ((), 0)
        begin = min(max(segment.start, first_query), segment.stop)
        path, path_length = _extended(path, segment.start, begin), path_length + begin - segment.start
        length = segment.stop - begin
        count = max(1, -(-length // max_block_tokens))
        bounds = [begin + length * i // count for i in range(count + 1)]
        for start, stop in pairwise(bounds):
            if stop > start:
                blocks.append(_Block(start, stop, path, path_length))
            path, path_length = _extended(path, start, stop), path_length + stop - start
        path_behind.append((path, path_length))
    return blocks


def _extended(path: _Path, start: int, stop: int) -> _Path:
    if start == stop:
        return path
    if path and path[-1][1] == start:
        return (*path[:-1], (path[-1][0], stop))
    return (*path, (start, stop))


def _grouped(blocks: list[_Block]) -> list[list[_Block]]:
    """Tiles: blocks of similar shape, cut where padding would cost more than one more tile."""
    groups: list[list[_Block]] = []
    path_length = length = waste = 0
    for block in sorted(blocks, key=lambda b: (b.path_length, b.path, b.length), reverse=True):
        if groups:
            old = len(groups[-1]) * length * (path_length + length)
            longer = max(length, block.length)
            new = (len(groups[-1]) + 1) * longer * (path_length + longer)
            waste += new - old - block.length * (block.path_length + block.length)
        if not groups or waste > TILE_OVERHEAD_PAIRS or new > MAX_TILE_PAIRS:
            groups.append([])
            path_length, length, waste = block.path_length, 0, 0
        groups[-1].append(block)
        length = max(length, block.length)
    return groups


def _tile(blocks: list[_Block], num_tokens: int, device: torch.device | str) -> Tile:
    length = max(block.length for block in blocks)
    path_length = max(block.path_length for block in blocks)
    keys = torch.full((len(blocks), path_length + length), num_tokens)
    for row, block in enumerate(blocks):
        filled = 0
        for start, stop in block.path:
            keys[row, filled : filled + stop - start] = torch.arange(start, stop)
            filled += stop - start
        keys[row, path_length : path_length + block.length] = torch.arange(block.start, block.stop)
    is_padding = keys[:, None, :path_length] == num_tokens
    return Tile(
        num_blocks=len(blocks),
        length=length,
        path_length=path_length,
        tokens=keys[:, path_length:].flatten().to(device),
        keys=keys.flatten().to(device),
        has_one_path=all(block.path == blocks[0].path for block in blocks),
        path_is_padding=is_padding.to(device) if bool(is_padding.any()) else None,
    )
