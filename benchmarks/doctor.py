"""Speed and memory of the data doctor on short rows, and where its time goes: `python -m benchmarks.doctor`.

Every stage is measured in a process of its own with one thread, in CPU seconds; each adds one part to the one before.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

STAGES = (
    "parse JSON lines",
    "and build records",
    "and all checks but near-duplicates",
    "and near-duplicates (MinHash)",
)


def main() -> None:
    """Write rows, run each stage, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--stage", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    path = arguments.folder / f"doctor_{arguments.rows}.jsonl"
    if arguments.stage is not None:
        _measure(path, arguments.stage)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    _write_rows(path, arguments.rows)
    print(f"| stage ({arguments.rows:,} rows, {path.stat().st_size / arguments.rows:.0f} bytes each) | rows/s | MiB |")
    print("|---|---|---|")
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for stage, name in enumerate(STAGES):
        command = [sys.executable, "-m", "benchmarks.doctor", "--stage", str(stage)]
        command += ["--rows", str(arguments.rows), "--folder", str(arguments.folder)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        seconds, mebibytes = json.loads(done.stdout)
        print(f"| {name} | {arguments.rows / seconds:,.0f} | {mebibytes:.0f} |", flush=True)


def _write_rows(path: Path, count: int) -> None:
    """Rows as an operator's questions are: 6 to 14 words, one of 80 answer codes, unequal shares."""
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(5000)]
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            question = " ".join(rng.choices(vocabulary, k=rng.randint(6, 14)))
            answer = f"code_{int(80 * rng.random() ** 2)}"
            stream.write(json.dumps({"instruction": question, "input": "", "output": answer}) + "\n")


def _measure(path: Path, stage: int) -> None:
    from loratory.data.health.doctor import Doctor, check_streams
    from loratory.data.record_stream import RecordStream
    from loratory.data.sources import find_source

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.process_time()
    if stage == 0:
        for _ in find_source(str(path)).rows():
            pass
    elif stage == 1:
        for _ in RecordStream(str(path)):
            pass
    else:
        check_streams(Doctor(near=stage == 3), [RecordStream(str(path))])
    seconds = time.process_time() - start_s
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))


if __name__ == "__main__":
    main()
