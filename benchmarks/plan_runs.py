"""The runs of `benchmarks.plan`: one short training after the other, each in a forked process of its own."""

import multiprocessing
import sys
from pathlib import Path

from benchmarks.plan import clean, configurations, run_folder


def main() -> None:
    """Run every configuration of one model: FOLDER MODEL THREADS STEPS."""
    folder, model, threads, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # Forked before torch starts threads; libraries are loaded once, so that a run takes as long as its steps.
    import loratory.engine.training  # noqa: F401

    context = multiprocessing.get_context("fork")
    for name, _, file, changes in configurations():
        clean(run_folder(folder, model) / name)
        child = context.Process(target=_train, args=(folder, model, name, file, changes, threads, steps))
        child.start()
        child.join()
        print(f"{model} {name}: exit code {child.exitcode}", flush=True)


def _train(folder: Path, model: str, name: str, file: str, changes: tuple[str, ...], threads: int, steps: int) -> None:
    from rich.console import Console

    from loratory.config import build_config
    from loratory.engine.training import run_training

    values = {
        "model": {"model_name_or_path": str(folder / "models" / model)},
        "data": {"train": str(folder / file), "template": "alpaca", "cutoff_len": 2048},
        "train": {"max_steps": steps, "num_threads": threads, "num_epochs": 1.0},
        "run": {"output_dir": str(run_folder(folder, model)), "name": name},
    }
    with Path("/dev/null").open("w") as nothing:
        run_training(build_config(values, list(changes)), console=Console(file=nothing))


if __name__ == "__main__":
    main()
