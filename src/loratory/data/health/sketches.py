"""Near-duplicates by MinHash: rows whose words and word pairs are mostly the same.

Each text's set of words and word pairs becomes 32 minimum hashes (Broder 1997), computed by rensa. Bands of 4 are
compared by sorting; candidates are verified on the lowest 16 bits of each hash (b-bit minwise hashing, Li and König
2010). Costs 128 bytes a row. A pair at 0.8 similarity becomes a candidate with probability 0.98; the estimate that
then decides has a standard error of 0.07 there.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from loratory.errors import MissingExtraError

NUM_HASHES = 32
NUM_BANDS = 8
SIMILARITY = 0.8
_SEED = 42
_BATCH = 2048
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Sketches:
    """MinHash sketches of texts, in order.

    Raises:
        MissingExtraError: If rensa is not installed.
    """

    def __init__(self) -> None:
        try:
            from rensa import RMinHash
        except ImportError:
            raise MissingExtraError("Finding near-duplicates", "doctor") from None
        self._digests = RMinHash.digest_matrix_from_token_sets
        self._waiting: list[list[str]] = []
        self._bands = [array("Q") for _ in range(NUM_BANDS)]
        self._bytes = bytearray()

    def add(self, text_words: Sequence[str]) -> None:
        """Sketch one text, given its words."""
        self._waiting.append([*text_words, *map(" ".join, pairwise(text_words))])
        if len(self._waiting) == _BATCH:
            self._flush()

    def similar(self, groups: npt.NDArray[np.uint64], *, num_test: int = 0) -> tuple[dict[int, int], dict[int, int]]:
        """Find what resembles what. Within a band's run of equals each row meets the first and the one before it.

        Args:
            groups: uint64 [rows]; rows of one group (the same prompt) are not compared.
            num_test: So many rows from the start are test rows.

        Returns:
            Training row -> an earlier training row that it resembles; test row -> a training row that it resembles.
        """
        self._flush()
        lowest = np.frombuffer(self._bytes, dtype=np.uint16).reshape(-1, NUM_HASHES)
        assert len(groups) == len(lowest)
        within: dict[int, int] = {}
        across: dict[int, int] = {}
        for band in self._bands:
            values = np.frombuffer(band, dtype=np.uint64) if band else np.empty(0, np.uint64)
            order = np.argsort(values, kind="stable")
            same = values[order][1:] == values[order][:-1]
            positions = np.flatnonzero(same) + 1
            starts = np.maximum.accumulate(np.where(np.concatenate(([True], ~same)), np.arange(len(order)), 0))
            pairs = [(positions, starts[positions]), (positions, positions - 1)]
            if num_test and len(positions):
                firsts = np.unique(starts)
                train_at = np.where(order >= num_test, np.arange(len(order)), len(order))
                first_train = np.minimum.reduceat(train_at, firsts)
                of_each = np.repeat(first_train, np.diff(np.append(firsts, len(order))))
                tested = np.flatnonzero((order < num_test) & (of_each < len(order)))
                pairs.append((of_each[tested], tested))
            for later, earlier in pairs:
                for row, other in self._verified(order[later], order[earlier], groups, lowest):
                    if other >= num_test:
                        within[row] = min(other, within.get(row, other))
                    elif row >= num_test:
                        across[other] = min(row, across.get(other, row))
        return within, across

    def _verified(
        self,
        later: npt.NDArray[np.int64],
        earlier: npt.NDArray[np.int64],
        groups: npt.NDArray[np.uint64],
        lowest: npt.NDArray[np.uint16],
    ) -> Iterator[tuple[int, int]]:
        differs = groups[later] != groups[earlier]
        later, earlier = later[differs], earlier[differs]
        for start in range(0, len(later), 65536):
            rows, others = later[start : start + 65536], earlier[start : start + 65536]
            matches = (lowest[rows] == lowest[others]).mean(axis=1)
            similar = matches >= SIMILARITY
            yield from zip(rows[similar].tolist(), others[similar].tolist(), strict=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = self._digests(self._waiting, NUM_HASHES, _SEED).to_rows()
        digests = np.array(rows, dtype=np.uint64)
        self._bytes += (digests & np.uint64(0xFFFF)).astype(np.uint16).tobytes()
        banded = digests.reshape(len(digests), NUM_BANDS, -1)
        mixed = np.zeros(banded.shape[:2], dtype=np.uint64)
        for column in range(banded.shape[2]):
            mixed = (mixed ^ banded[:, :, column]) * _MIX
            mixed ^= mixed >> np.uint64(29)
        # Texts without words are alike in nothing: each gets bands of its own.
        for row, tokens in enumerate(self._waiting):
            if not tokens:
                mixed[row] = (len(self._bands[0]) + row) * int(_MIX) % 2**64
        for number, band in enumerate(self._bands):
            band.frombytes(np.ascontiguousarray(mixed[:, number]).tobytes())
        self._waiting.clear()
