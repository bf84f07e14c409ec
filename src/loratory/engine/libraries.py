"""The libraries that a verb on a model needs, imported without what it does not need."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMPILER_SWITCH = "TORCHDYNAMO_DISABLE"


def load_libraries() -> None:
    """Import torch, transformers and peft, as the rooms that are imported next would; once per process.

    Two costs are spared. One is torch's compiler: peft imports bitsandbytes wherever it is installed, and bitsandbytes
    asks torch to compile kernels of its own while it is imported. The other is garbage collection, which walks through
    all that was imported so far again and again although modules live to the end, and once more when the process ends.
    """
    if "peft" in sys.modules:
        return
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        with _without_compiler():
            import peft  # noqa: F401
    finally:
        if was_collecting:
            gc.enable()
    gc.freeze()


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Make `torch.compile` return functions as they are, by torch's own switch, which it reads at every call.

    On CPUs and CUDA nothing changes but the time: there bitsandbytes has kernels that are compiled beforehand and
    calls none of those that it gives to torch. On other accelerators, which may need them, the switch is left alone.
    """
    import torch

    device = torch.accelerator.current_accelerator()
    if COMPILER_SWITCH in os.environ or (device is not None and device.type != "cuda"):
        yield
        return
    os.environ[COMPILER_SWITCH] = "1"
    try:
        yield
    finally:
        del os.environ[COMPILER_SWITCH]
