"""The highest memory use of a stretch of work: CUDA's own count, or the kernel's mark of the resident set."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

_RESET_PEAK = "5"  # proc(5): sets VmHWM back to the current resident set


class PeakMemory:
    """Starts to watch when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK)

    def read(self) -> int:
        """Peak in bytes; where the mark cannot be set back, that of the process's whole life."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
