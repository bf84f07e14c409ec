"""Cutting a flat tree's tokens into chunks, so that what lives only for a moment stays in the processor's cache."""

from collections.abc import Iterator

CHUNK_TOKENS = 512
"""Tokens per chunk: enough rows for GEMM at full speed, few enough that an MLP buffer (3 MB) stays in cache."""


def chunks(num_tokens: int) -> Iterator[slice]:
    """Slices of nearly equal length, none longer than `CHUNK_TOKENS`."""
    count = -(-num_tokens // CHUNK_TOKENS)
    for index in range(count):
        yield slice(num_tokens * index // count, num_tokens * (index + 1) // count)
