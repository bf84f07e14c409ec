"""How long the light commands take: `python -m benchmarks.startup` prints the median wall time of each.

Run it on an idle machine. The bar is 0.4 s: no torch, no transformers, nothing that a message does not need.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 7
BAD_RUN_FILE = "model: {model_name: x}\ndata: {train: rows.json}\ntrain: {learning_rat: 1}\n"


def median_s(arguments: list[str], folder: Path) -> float:
    """Median wall time of one command in fresh processes, in seconds; a first run, which fills caches, is left out."""
    seconds = []
    for _ in range(REPEATS + 1):
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "loratory", *arguments]
        subprocess.run(command, cwd=folder, capture_output=True, check=False)
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print a line per command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bad.yaml").write_text(BAD_RUN_FILE, encoding="utf-8")
        for arguments in (["--version"], ["--help"], ["train", "--help"], ["train", "bad.yaml"]):
            print(f"loratory {' '.join(arguments):<16} {median_s(arguments, folder):.2f} s")


if __name__ == "__main__":
    main()
