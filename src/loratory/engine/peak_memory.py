"""The highest memory use of a stretch of work: CUDA's own count, or the kernel's mark of the resident set."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

_RESET_FILE, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"  # proc(5): sets VmHWM back to the resident set


class PeakMemory:
    """Starts to watch when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._earlier = 0
        if not self.restart():
            self._earlier = process_peak_bytes()

    def restart(self) -> bool:
        """Forget what was before; returns whether the system let it. Else the watch goes on from where it began."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return True
        try:
            _RESET_FILE.write_text(_RESET_PEAK)
        except OSError:
            return False
        self._earlier = 0
        return True

    def read(self) -> int | None:
        """Peak in bytes; None if the mark could not be set back and earlier work in this process reached it before."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        peak = process_peak_bytes()
        return peak if peak > self._earlier else None


def process_peak_bytes() -> int:
    """The mark of this process's resident set: of its whole life, or since a `PeakMemory` last set it back."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
