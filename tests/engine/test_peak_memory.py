"""The highest memory of a stretch of work, in processes of their own: one that trained keeps freed memory.

Otherwise nothing new need become resident.
"""

import json
import subprocess
import sys

BLOCK_BYTES = 256 * 2**20
PROGRAM = f"""
import json, sys
from pathlib import Path
import torch
from loratory.engine import peak_memory

def take(num_blocks):
    block = torch.ones(num_blocks * {BLOCK_BYTES} // 4)
    del block

if sys.argv[1] == "refused":
    peak_memory._RESET_FILE = Path("/proc/self/no_such_file")
begin = peak_memory.process_peak_bytes()
whole = peak_memory.PeakMemory(torch.device("cpu"))
found = [begin]
for num_blocks in (2, 1, 3):
    watch = peak_memory.PeakMemory(torch.device("cpu"))
    take(num_blocks)
    found.append(watch.read())
whole.restart()
print(json.dumps([*found, whole.read()]))
"""


def peaks(mode: str) -> list[int | None]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    found: list[int | None] = json.loads(done.stdout)
    return found


def test_each_stretch_has_its_own_peak_though_its_memory_was_freed() -> None:
    begin, two, one, three, now = peaks("allowed")
    assert None not in (begin, two, one, three, now)
    assert two - begin > 1.9 * BLOCK_BYTES  # type: ignore[operator]
    assert two - one > 0.9 * BLOCK_BYTES  # type: ignore[operator]
    assert three - two > 0.9 * BLOCK_BYTES  # type: ignore[operator]
    assert now < one  # type: ignore[operator]


def test_a_peak_below_an_earlier_one_is_not_known_where_the_mark_cannot_be_set_back() -> None:
    begin, two, one, three, whole = peaks("refused")
    assert one is None
    assert two - begin > 1.9 * BLOCK_BYTES  # type: ignore[operator]
    assert three - two > 0.9 * BLOCK_BYTES  # type: ignore[operator]
    assert whole == three
