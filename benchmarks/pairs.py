"""Real pairs of a chosen and a rejected answer, and the race over them: what the DPO and the reward benchmark share."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import Measurement, run
from benchmarks.work import SHARED_DATA, Work
from loratory.data.templates import BoundTemplate

# Name -> module of `benchmarks.contestants` and its options.
Contestants = Mapping[str, tuple[str, tuple[str, ...]]]
SEED = 42


def pair_flags(name: str, contestants: Contestants, *, batch_size: int) -> argparse.ArgumentParser:
    """Flags of `python -m benchmarks.NAME`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--contestants", nargs="+", choices=sorted(contestants), default=list(contestants))
    parser.add_argument("--model", type=Path, help="a Llama-like model folder; default: the demo's base model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=batch_size, help="pairs per optimizer step")
    parser.add_argument("--micro-batch-size", type=int, default=2, help="pairs per forward pass of TRL")
    parser.add_argument("--cutoff-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(f"outputs/benchmarks/{name}"))
    return parser


def write_work(flags: argparse.Namespace, model: Path, template: BoundTemplate) -> Work:
    """Choose the first pairs that fit, and write them and the work. The adapter is the caller's to write.

    Args:
        flags: Of `pair_flags`.
        model: Folder of the base model.
        template: Bound to its tokenizer.
    """
    from loratory.data.reader import read_records
    from loratory.objective.pairs import pair_sequences
    from loratory.objective.row import UnusableRowError

    folder: Path = flags.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    needed = flags.steps * flags.batch_size
    rows: list[dict[str, list[int]]] = []
    for record in read_records(
        "dpo_en_demo", require_answer=False, dataset_dir=str(SHARED_DATA / "llamafactory_demo")
    ).records:
        try:
            chosen, rejected = pair_sequences(record, template)
        except UnusableRowError:
            continue
        if max(len(chosen), len(rejected)) <= flags.cutoff_len and len(rows) < needed:
            prompt = chosen.prompt_length
            rows.append(
                {
                    "prompt_ids": chosen.token_ids[:prompt].tolist(),
                    "chosen_ids": chosen.token_ids[prompt:].tolist(),
                    "rejected_ids": rejected.token_ids[prompt:].tolist(),
                }
            )
    if len(rows) < needed:
        raise SystemExit(f"dpo_en_demo has {len(rows)} pairs of at most {flags.cutoff_len} tokens, not {needed}")
    prompts = sum(len(row["prompt_ids"]) for row in rows) / needed
    answers = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows) / needed
    print(f"{needed} pairs, prompts of {prompts:.0f} tokens, both answers {answers:.0f}", flush=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    work = Work(
        data="dpo_en_demo",
        model=str(model),
        adapter=str(folder / "adapter"),
        rows=str(folder / "rows.json"),
        records="",
        batch_size=flags.batch_size,
        micro_batch_size=flags.micro_batch_size,
        num_steps=flags.steps,
        learning_rate=1e-4,
        num_threads=flags.threads,
        seed=SEED,
    )
    work.write(folder / "work.json")
    return work


def race(flags: argparse.Namespace, contestants: Contestants, work: Work) -> None:
    """Run the contestants in turn, `--repeats` times, and print the best of each as a table."""
    runs: dict[str, list[Measurement]] = {name: [] for name in flags.contestants}
    for _ in range(flags.repeats):
        for name, measured_runs in runs.items():
            module, options = contestants[name]
            file = str(flags.folder.resolve() / "work.json")
            measured = run(f"benchmarks.contestants.{module}", [file, *options], num_threads=work.num_threads)
            measured_runs.append(measured)
            print(f"{name}: {_rate(measured, work):.3f} pairs/s, losses {measured.losses}", flush=True)
    best = {name: max(_rate(measured, work) for measured in found) for name, found in runs.items()}
    print("\n| | pairs/s | ours is | peak memory above weights, MB |\n|---|---|---|---|")
    for name, rate in best.items():
        memory = min(measured.peak_bytes - measured.base_bytes for measured in runs[name]) / 1e6
        print(f"| {name} | {rate:.3f} | {best.get('ours', rate) / rate:.2f}× | {memory:,.0f} |")


def _rate(measured: Measurement, work: Work) -> float:
    """Pairs per second of the steps and, where there is one, their reference together."""
    return work.batch_size * work.num_steps / (sum(measured.step_seconds) + measured.notes.get("reference_seconds", 0))
