"""One run of `benchmarks.plan`, as `loratory train` would do it: a process of its own, so that its peak is its own."""

import sys
from pathlib import Path

from benchmarks.plan import configuration, run_folder


def main() -> None:
    """Train one configuration: FOLDER MODEL NAME THREADS STEPS."""
    folder, model, name, threads, steps = (
        Path(sys.argv[1]),
        sys.argv[2],
        sys.argv[3],
        int(sys.argv[4]),
        int(sys.argv[5]),
    )
    from rich.console import Console

    from loratory.engine.libraries import load_libraries

    load_libraries()
    from loratory.config import build_config
    from loratory.engine.training import run_training

    file, changes = configuration(name)
    values = {
        "model": {"model_name_or_path": str(folder / "models" / model)},
        "data": {"train": str(folder / file), "template": "alpaca", "cutoff_len": 2048},
        "train": {"max_steps": steps, "num_threads": threads, "num_epochs": 1.0},
        "run": {"output_dir": str(run_folder(folder, model)), "name": name},
    }
    with Path("/dev/null").open("w") as nothing:
        run_training(build_config(values, list(changes)), console=Console(file=nothing), overwrite=True)


if __name__ == "__main__":
    main()
