"""Keeping freed memory in the process during training, so that a step does not fault its buffers in again.

glibc gives large blocks back to the kernel when they are freed and takes zeroed pages from it when they are needed
again. A step frees and takes hundreds of megabytes. Measured with LoRA on 135M shapes, 974 tokens and 8 layers: the
peak over the weights falls from 280 to 187 MB, because all blocks come from one heap, and page faults of the second
step from 32,000 to 3.
"""

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)


def keep_freed_memory(*, growth_bytes: int = 64 * 2**20) -> bool:
    """Tell the C library to serve all blocks from its heap and never to shrink it. Call it once, before training.

    It acts on the whole process until its end: memory that was used once stays allocated and serves later requests, or
    until `return_freed_memory`.

    Args:
        growth_bytes: The heap grows by at least this much at a time.

    Returns:
        Whether it took effect; False without glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, growth_bytes))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def return_freed_memory() -> None:
    """Give the kernel back what earlier work in this process was done with, so that the next run's use is its own.

    The heap is kept to the end otherwise. Does nothing but collect garbage where the C library is not glibc.
    """
    gc.collect()  # a model that was trained is in reference cycles
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
