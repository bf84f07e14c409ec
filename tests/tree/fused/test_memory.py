"""Freed memory stays in the process; in a process of its own, because the setting is for good."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from loratory.tree.fused.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    blocks = [torch.ones(12_000_000) for _ in range(3)]
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_later_steps_fault_little_in() -> None:
    # Not nothing: where the heap's blocks come to lie differs from process to process, and one may not fit again.
    assert page_faults("keep") < page_faults("default") / 2
