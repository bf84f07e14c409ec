"""What studies gain: several adapters on one base against runs one by one, and halving against the full grid.

    python -m benchmarks.sweep --together
    python -m benchmarks.sweep --halving

Real rows of the demo, its base model, fp32, LoRA on all projections. Each contestant is a process of its own, `loratory
train` with all that belongs to it; contestants alternate, and nothing may run beside them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from loratory.config import RunConfig
from loratory.config.document import dump_document
from loratory.demo.base_model import ensure_base_model
from loratory.demo.telecom import generate_telecom
from loratory.engine.state import load_training_state
from loratory.engine.together import train_together
from loratory.engine.training import run_training
from loratory.run import RunDirectory
from loratory.sweep.sweep import run_sweep

_POLL_S = 0.02
RATES = (1e-3, 2e-3, 5e-4, 3e-3)
ALPHAS = (8.0, 32.0)


def main() -> None:
    """Measure what was asked for and print it."""
    arguments = _arguments()
    if arguments.worker is not None:
        _work(arguments.worker, arguments.result)
        return
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    generate_telecom(folder / "data")
    base = arguments.model or ensure_base_model()
    if arguments.together:
        for batch_size in arguments.batch_sizes:
            print(together(folder, base, batch_size, arguments), flush=True)
    if arguments.halving:
        print(halving(folder, base, arguments), flush=True)


def together(folder: Path, base: Path, batch_size: int, arguments: argparse.Namespace) -> str:
    """Eight runs in one process against one run, of which eight would follow each other."""
    values = [
        _values(folder, base, arguments, batch_size=batch_size, name=f"run-{index}", steps=arguments.steps)
        for index in range(arguments.runs)
    ]
    for index, each in enumerate(values):
        each["train"] |= {"learning_rate": RATES[index % len(RATES)], "seed": index}
        each["adapter"]["alpha"] = ALPHAS[index // len(RATES) % len(ALPHAS)]
    alone, shared = [], []
    for _ in range(arguments.repeats):
        alone.append(_measured(folder, values[:1]))
        shared.append(_measured(folder, values))
    runs = arguments.runs
    one_s, all_s = (median(each["seconds"] for each in found) for found in (alone, shared))
    one_step_s, all_steps_s = (median(sum(each["step_seconds"]) for each in found) for found in (alone, shared))
    one_bytes, all_bytes = (median(each["peak_bytes"] for each in found) for found in (alone, shared))
    return (
        f"{runs} runs of rank {arguments.rank}, {arguments.steps} steps of {batch_size} rows, {arguments.threads} "
        f"threads, {arguments.repeats} rounds, median\n"
        f"  whole runs   one {one_s:.1f} s, {runs} together {all_s:.1f} s: {runs * one_s / all_s:.2f}× the throughput\n"
        f"  steps alone  one {one_step_s:.3f} s, of all {all_steps_s:.3f} s: "
        f"{runs * one_step_s / all_steps_s:.2f}× the throughput\n"
        f"  peak memory  one {one_bytes / 2**20:,.0f} MiB, {runs} together {all_bytes / 2**20:,.0f} MiB: "
        f"{all_bytes / one_bytes:.2f}×\n"
        f"  last losses differ by at most {_gap(alone, shared):.1e}"
    )


def halving(folder: Path, base: Path, arguments: argparse.Namespace) -> str:
    """Nine configurations halved against nine trained to the end."""
    seconds, winners = {}, {}
    out = folder / "studies"
    shutil.rmtree(out, ignore_errors=True)
    steps, first = arguments.halving_steps, arguments.halving_steps // 9
    for name, section in (("full", {}), ("halved", {"halving": {"min_steps": first, "factor": 3}})):
        values = _values(folder, base, arguments, batch_size=arguments.batch_sizes[-1], name=name, steps=steps)
        values["data"] |= {"val_size": 24, "max_samples": 300}
        values["train"] |= {"eval_steps": steps} if name == "full" else {"eval_steps": first}
        values["run"] = {"output_dir": str(out)}
        out.mkdir(parents=True, exist_ok=True)
        run_file, study_file = out / f"{name}-run.yaml", out / f"{name}.yaml"
        run_file.write_text(dump_document(values))
        space = {"adapter.rank": [4, 8, 16], "train.learning_rate": [2.0e-4, 1.0e-3, 5.0e-3]}
        study = {"base": str(run_file), "space": space, "concurrent": arguments.concurrent, **section}
        study_file.write_text(dump_document({"sweep": study}))
        start_s = time.perf_counter()
        table = run_sweep(study_file, note=lambda line: None)
        seconds[name] = time.perf_counter() - start_s
        assert table.best is not None
        winners[name] = f"{table.best.setting}, eval_loss {table.best.value:.4f}"
    return (
        f"9 configurations, {steps} steps of {arguments.batch_sizes[-1]} rows, {arguments.concurrent} at once\n"
        f"  full grid {seconds['full']:.1f} s: {winners['full']}\n"
        f"  halved    {seconds['halved']:.1f} s: {winners['halved']}\n"
        f"  {seconds['halved'] / seconds['full']:.2f} of the time"
    )


def _values(
    folder: Path, base: Path, arguments: argparse.Namespace, *, batch_size: int, name: str, steps: int
) -> dict[str, Any]:
    return {
        "model": {"model_name_or_path": str(base)},
        "data": {
            "train": str(folder / "data" / "train_400.json"), "template": "chat", "system": "Answer with codes.",
            "cutoff_len": 128,
        },
        "adapter": {"rank": arguments.rank, "alpha": 2.0 * arguments.rank, "targets": "all"},
        "train": {
            "max_steps": steps, "batch_size": batch_size, "num_threads": arguments.threads, "learning_rate": 1e-3,
            "logging_steps": 1, "save_steps": steps,
        },
        "run": {"output_dir": str(folder / "runs"), "name": name},
    }  # fmt: skip


def _measured(folder: Path, values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Train these runs in a fresh process."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    given, result = folder / "given.json", folder / "result.json"
    given.write_text(json.dumps(values))
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.sweep", "--worker", str(given), "--result", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start_s
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(result.read_text())
    return {**found, "seconds": seconds}


def _work(given: Path, result: Path) -> None:
    """Inside the fresh process: train, watch the memory, write down."""
    configs = [RunConfig.model_validate(each) for each in json.loads(given.read_text())]
    peak, is_over = [0], threading.Event()
    watch = threading.Thread(target=_watch, args=(peak, is_over))
    watch.start()
    if len(configs) == 1:
        folders = [run_training(configs[0]).run_dir]
    else:
        outcomes = train_together(configs)
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        if failed:
            raise failed[0]
        folders = [outcome.result.run_dir for outcome in outcomes if outcome.result is not None]
    is_over.set()
    watch.join()
    result.write_text(
        json.dumps(
            {
                "peak_bytes": peak[0],
                "step_seconds": [_step_seconds(each) for each in folders],
                "losses": [_last_loss(each) for each in folders],
            }
        )
    )


def _watch(peak: list[int], is_over: threading.Event) -> None:
    process = psutil.Process()
    while not is_over.wait(_POLL_S):
        peak[0] = max(peak[0], process.memory_info().rss)


def _step_seconds(run: Path) -> float:
    """Mean time of a step, of which a shared pass counts by its tokens."""
    newest = RunDirectory.read(run).checkpoints.scan().newest
    assert newest is not None
    progress = load_training_state(newest.path).progress
    return progress.train_seconds / progress.step


def _last_loss(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([line["loss"] for line in lines if "loss" in line][-1])


def _gap(alone: Sequence[dict[str, Any]], shared: Sequence[dict[str, Any]]) -> float:
    return max(abs(one["losses"][0] - all_["losses"][0]) for one, all_ in zip(alone, shared, strict=True))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--together", action="store_true", help="several adapters on one base")
    parser.add_argument("--halving", action="store_true", help="halving against the full grid")
    parser.add_argument("--model", type=Path, help="a model folder; default: the demo's base model")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--halving-steps", type=int, default=54)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1, help="rounds; contestants alternate within a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--concurrent", type=int, default=9, help="runs at once in --halving")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/sweep"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
