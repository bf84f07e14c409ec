"""One command that measures loratory against its peers: `python -m benchmarks --help`."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Measurement, run
from benchmarks.table import loss_gap, tables
from benchmarks.work import DATA, prepare

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
TRL = "trl==1.16.0"
CONTESTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("ours", ()),
    "engine": ("engine", ()),
    "peft": ("peft_trainer", ()),
    "peft-tuned": ("peft_trainer", ("--group-by-length", "--pad-to", "1")),
    "peft-sorted": ("peft_trainer", ("--sort-within-step", "--pad-to", "1")),
    "trl": ("trl_sft", ()),
    "trl-tuned": ("trl_sft", ("--tuned",)),
}
LADDER: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours, padded twin": ("ours", ("--path", "padded", "--micro-batch-size", "4")),
    "ours, tree path": ("ours", ("--path", "tree")),
    "ours, tree path, nothing shared": ("ours", ("--path", "tree", "--no-share")),
    "ours, tree path, 4 rows a tree": ("ours", ("--path", "tree", "--micro-batch-size", "4")),
    "ours, nothing shared": ("ours", ("--no-share",)),
    "ours, 4 rows a tree": ("ours", ("--micro-batch-size", "4")),
}


def main() -> None:
    """Prepare the work, run contestants in turn, write results and print tables."""
    arguments = _arguments()
    folder: Path = arguments.folder.resolve()
    chosen = {name: CONTESTANTS[name] for name in arguments.contestants}
    if arguments.ladder:
        chosen |= LADDER
    trl_path = _install_trl(folder / "trl") if any(module == "trl_sft" for module, _ in chosen.values()) else None
    results = []
    for data in arguments.data:
        work_folder = folder / data
        work_folder.mkdir(parents=True, exist_ok=True)
        work = prepare(
            work_folder,
            data,
            arguments.model or _demo_model(),
            batch_size=arguments.batch_size,
            micro_batch_size=arguments.micro_batch_size,
            num_steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            num_threads=arguments.threads,
            seed=arguments.seed,
        )
        work.write(work_folder / "work.json")
        runs: dict[str, list[Measurement]] = {name: [] for name in chosen}
        bounds: list[Measurement] = []
        for repeat in range(arguments.repeats):
            for name, (module, options) in chosen.items():
                measured = run(
                    f"benchmarks.contestants.{module}",
                    [str(work_folder / "work.json"), *options],
                    num_threads=work.num_threads,
                    python_path=trl_path,
                )
                runs[name].append(measured)
                rate = measured.samples_per_s(work.batch_size)
                print(
                    f"{data} run {repeat + 1} {name}: {rate:.2f} samples/s, losses {_short(measured.losses)}",
                    flush=True,
                )
            reference = next((runs[name][-1] for name in runs if "unique_tokens" in runs[name][-1].notes), None)
            if reference is not None:
                sizes = [str(reference.notes[name]) for name in ("unique_tokens", "labels")]
                bounds.append(
                    run(
                        "benchmarks.contestants.gemm",
                        [str(work_folder / "work.json"), *sizes],
                        num_threads=work.num_threads,
                    )
                )
        results.append(
            {
                "work": asdict(work),
                "runs": {name: [asdict(m) for m in measured] for name, measured in runs.items()},
                "bounds": [asdict(bound) for bound in bounds],
                "loss_gap": {name: loss_gap(runs, name) for name in runs},
            }
        )
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))
    if arguments.readme:
        _write_readme(tables(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=sorted(DATA), default=sorted(DATA, reverse=True))
    parser.add_argument("--contestants", nargs="+", choices=sorted(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--ladder", action="store_true", help="also ours with levers off")
    parser.add_argument("--model", type=Path, help="a Llama-like model folder; default: the demo's base model")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2, help="rounds; contestants alternate within a round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks"), help="work files and peers")
    parser.add_argument("--readme", action="store_true", help="put the tables into benchmarks/README.md")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/results.json"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def _demo_model() -> Path:
    from loratory.demo.base_model import ensure_base_model

    return ensure_base_model()


def _install_trl(folder: Path) -> str:
    """TRL in a folder of its own, on the torch, transformers and peft that all contestants use."""
    if not (folder / "trl").is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), TRL], check=True
        )
    return str(folder)


def _write_readme(content: str) -> None:
    """Replace what stands between the markers."""
    path = Path(__file__).with_name("README.md")
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def _short(losses: list[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in losses[:4])


if __name__ == "__main__":
    main()
