"""How attention on a token tree is cut into a few dense products: geometry only, no arithmetic on activations.

Every query attends to the tokens of its path. Long segments are first cut into blocks that continue each other; then
siblings (blocks with the same parent block) of similar length form a pack, and packs of similar shape form a tile.
A tile is one batch of products: `F` families x `C` children x `L` padded tokens, each against its own block
(causal) and against the family's `P` path tokens before it (all of them). No mask of size T x T ever exists, and
keys that siblings share are multiplied once for all of them.
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


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of a segment with the token ranges of the path before it."""

    start: int
    stop: int
    path: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def path_length(self) -> int:
        return sum(stop - start for start, stop in self.path)


_Pack = list[_Block]
"""Siblings of similar length, longest first: same path, one product with its keys."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One batch of attention products.

    Attributes:
        num_families: F.
        num_children: C, padded.
        length: L, own tokens of each child, padded.
        path_length: P, tokens before the children, padded.
        tokens: int64 [F * C * L], flat token index, T where padded.
        path_range: The path as one range of flat tokens, when F is 1 and it is one.
        path_tokens: int64 [F * P], flat token index, T where padded; None when `path_range` says it all or P is 0.
        path_is_padding: bool [F, 1, P]; None when no path is padded.
    """

    num_families: int
    num_children: int
    length: int
    path_length: int
    tokens: torch.Tensor
    path_range: tuple[int, int] | None
    path_tokens: torch.Tensor | None
    path_is_padding: torch.Tensor | None
    _biases: dict[tuple[int, torch.dtype], torch.Tensor] = field(default_factory=dict)

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
        padded: int64, rows in tile order, (G, F, C, L) within each tile; rows of token T where padded.
        unpadded: int64 [T * G], place in `padded` of each row.
        tile_slices: The part of `padded` of each tile.
        path: int64 [G * F * P] rows of each tile's path, None when it is a range or empty.
    """

    padded: torch.Tensor
    unpadded: torch.Tensor
    tile_slices: tuple[slice, ...]
    path: tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionPlan:
    """Tiles that together give every token its attention over its path.

    Attributes:
        num_tokens: T.
        tiles: See `Tile`.
    """

    num_tokens: int
    tiles: tuple[Tile, ...]
    _rows: dict[int, TileRows] = field(default_factory=dict)

    @classmethod
    def from_tree(cls, tree: TokenTree) -> "AttentionPlan":
        """Plan the attention of a tree; a millisecond or so, once per micro-batch for all layers."""
        return cls.from_segments(tree.segments, device=tree.tokens_T.device)

    @classmethod
    def from_segments(
        cls,
        segments: Sequence[Segment],
        *,
        max_block_tokens: int = MAX_BLOCK_TOKENS,
        device: torch.device | str = "cpu",
    ) -> "AttentionPlan":
        """Plan from segments in flat order, each parent before its children."""
        num_tokens = segments[-1].stop if segments else 0
        packs = _packs(_families(segments, max_block_tokens))
        tiles = tuple(_tile(group, num_tokens, device) for group in _grouped(packs))
        return cls(num_tokens=num_tokens, tiles=tiles)

    def rows(self, num_key_heads: int) -> TileRows:
        """Row indices for a layer with that many key heads; computed once."""
        if num_key_heads not in self._rows:
            self._rows[num_key_heads] = self._make_rows(num_key_heads)
        return self._rows[num_key_heads]

    def _make_rows(self, num_key_heads: int) -> TileRows:
        device = self.tiles[0].tokens.device if self.tiles else torch.device("cpu")
        heads_G1 = torch.arange(num_key_heads, device=device)[:, None]
        parts = [(tile.tokens * num_key_heads + heads_G1).flatten() for tile in self.tiles]
        ends = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
        padded = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=device)
        place = torch.empty((self.num_tokens + 1) * num_key_heads, dtype=torch.int64, device=device)
        place[padded] = torch.arange(len(padded), device=device)
        return TileRows(
            padded=padded,
            unpadded=place[: self.num_tokens * num_key_heads],
            tile_slices=tuple(slice(start, stop) for start, stop in pairwise(ends)),
            path=tuple(
                None if tile.path_tokens is None else (tile.path_tokens * num_key_heads + heads_G1).flatten()
                for tile in self.tiles
            ),
        )


def _families(segments: Sequence[Segment], max_block_tokens: int) -> list[list[_Block]]:
    """Blocks of all segments, grouped by the block they continue."""
    families: dict[tuple[tuple[int, int], ...], list[_Block]] = {}
    path_behind: list[tuple[tuple[int, int], ...]] = []
    for segment in segments:
        path = path_behind[segment.parent] if segment.parent >= 0 else ()
        length = segment.stop - segment.start
        num_blocks = max(1, -(-length // max_block_tokens))
        bounds = [segment.start + length * i // num_blocks for i in range(num_blocks + 1)]
        for start, stop in pairwise(bounds):
            if stop > start:
                families.setdefault(path, []).append(_Block(start, stop, path))
            path = _extended(path, start, stop)
        path_behind.append(path)
    return list(families.values())


def _extended(path: tuple[tuple[int, int], ...], start: int, stop: int) -> tuple[tuple[int, int], ...]:
    if start == stop:
        return path
    if path and path[-1][1] == start:
        return (*path[:-1], (path[-1][0], stop))
    return (*path, (start, stop))


def _packs(families: list[list[_Block]]) -> list[_Pack]:
    """Cut each family where padding to its longest member would cost more than another tile."""
    packs: list[_Pack] = []
    for family in families:
        path_length = family[0].path_length
        pack: _Pack = []
        waste = 0
        for block in sorted(family, key=lambda b: b.length, reverse=True):
            if pack:
                pairs = pack[0].length * (path_length + pack[0].length)
                waste += pairs - block.length * (path_length + block.length)
            if not pack or waste > TILE_OVERHEAD_PAIRS or (len(pack) + 1) * pairs > MAX_TILE_PAIRS:
                pack = []
                packs.append(pack)
                waste = 0
            pack.append(block)
    return packs


def _grouped(packs: list[_Pack]) -> list[list[_Pack]]:
    """Put packs of similar shape side by side into tiles."""
    groups: list[list[_Pack]] = []
    shape = (0, 0, 0)
    waste = 0
    for pack in sorted(packs, key=_shape, reverse=True):
        num_children, path_length, length = _shape(pack)
        larger = (max(shape[0], num_children), max(shape[1], path_length), max(shape[2], length))
        if groups:
            old = len(groups[-1]) * _num_pairs(shape)
            new = (len(groups[-1]) + 1) * _num_pairs(larger)
            waste += new - old - _num_pairs((num_children, path_length, length))
        if not groups or waste > TILE_OVERHEAD_PAIRS or new > MAX_TILE_PAIRS:
            groups.append([])
            larger = (num_children, path_length, length)
            waste = 0
        groups[-1].append(pack)
        shape = larger
    return groups


def _shape(pack: _Pack) -> tuple[int, int, int]:
    return len(pack), pack[0].path_length, pack[0].length


def _num_pairs(shape: tuple[int, int, int]) -> int:
    num_children, path_length, length = shape
    return num_children * length * (path_length + length)


def _tile(packs: list[_Pack], num_tokens: int, device: torch.device | str) -> Tile:
    num_families = len(packs)
    num_children = max(len(pack) for pack in packs)
    length = max(block.length for pack in packs for block in pack)
    path_length = max(pack[0].path_length for pack in packs)
    tokens = torch.full((num_families, num_children, length), num_tokens)
    path_tokens = torch.full((num_families, path_length), num_tokens)
    for family, pack in enumerate(packs):
        for child, block in enumerate(pack):
            tokens[family, child, : block.length] = torch.arange(block.start, block.stop)
        if path_length:
            path = torch.cat([torch.arange(start, stop) for start, stop in pack[0].path] or [torch.arange(0)])
            path_tokens[family, : len(path)] = path
    is_padding = path_tokens == num_tokens
    is_range = num_families == 1 and len(packs[0][0].path) == 1
    return Tile(
        num_families=num_families,
        num_children=num_children,
        length=length,
        path_length=path_length,
        tokens=tokens.flatten().to(device),
        path_range=packs[0][0].path[0] if is_range else None,
        path_tokens=None if is_range or not path_length else path_tokens.flatten().to(device),
        path_is_padding=is_padding[:, None].to(device) if bool(is_padding.any()) else None,
    )
