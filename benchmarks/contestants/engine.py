"""loratory as a user runs it: `run_training` with its data room, loop, log and checkpoint: `… WORK RESULT`.

Losses and rates come from the run's own metrics.jsonl.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmarks.measure import Meter
from benchmarks.work import ALPHA, CUTOFF_LEN, RANK, TARGETS, Work
from loratory.config import load_config
from loratory.engine.order import permutation
from loratory.engine.training import run_training


def main() -> None:
    """Train `num_steps` steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    work = Work.read(arguments.work)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(_run_file(work, Path(folder)))
        meter = Meter()
        meter.begin(load_file(Path(work.model) / "model.safetensors").values())  # counted as loaded, as with everyone
        result = run_training(config)
        lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens_per_s" in line]
    lengths = np.array([len(row["input_ids"]) for row in work.read_rows()]).reshape(-1, work.batch_size).sum(axis=1)
    seconds = [float(n) / line["tokens_per_s"] for n, line in zip(lengths, steps, strict=True)]
    meter.finish(arguments.result, losses=[line["loss"] for line in steps], step_seconds=seconds)


def _run_file(work: Work, folder: Path) -> Path:
    """A run file whose order of rows is the work's: the loop's permutation is undone beforehand."""
    rows = json.loads(Path(work.records).read_text())
    order = permutation(len(rows), seed=work.seed, epoch=0)
    shuffled = [rows[0]] * len(rows)
    for row, place in zip(rows, order, strict=True):
        shuffled[int(place)] = row
    (folder / "rows.json").write_text(json.dumps(shuffled))
    run_file = folder / "run.json"  # JSON is YAML
    run_file.write_text(
        json.dumps(
            {
                "model": {"model_name_or_path": work.model, "dtype": "float32"},
                "data": {"train": str(folder / "rows.json"), "template": "alpaca", "cutoff_len": CUTOFF_LEN},
                "adapter": {"rank": RANK, "alpha": ALPHA, "targets": list(TARGETS), "path": work.adapter},
                "train": {
                    "max_steps": work.num_steps,
                    "batch_size": work.batch_size,
                    "learning_rate": work.learning_rate,
                    "schedule": "constant",
                    "warmup_ratio": 0.0,
                    "seed": work.seed,
                    "num_threads": work.num_threads,
                },
                "run": {"name": "benchmark", "output_dir": str(folder)},
            }
        )
    )
    return run_file


if __name__ == "__main__":
    main()
