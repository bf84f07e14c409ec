"""A reward model on real pairs beside TRL's: `python -m benchmarks.reward`.

Everyone gets the same token ids in the same optimizer batches, and starts from the same LoRA adapter and head.
"""

import argparse
import json
from pathlib import Path

from benchmarks.measure import Measurement, run
from benchmarks.work import ALPHA, RANK, SHARED_DATA, Work

CONTESTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("reward_ours", ()),
    "ours, padded twin": ("reward_ours", ("--path", "padded")),
    "trl": ("reward_trl", ()),
    "trl-tuned": ("reward_trl", ("--tuned",)),
}


def main() -> None:
    """Prepare the pairs, run contestants in turn, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reward", description=__doc__)
    parser.add_argument("--contestants", nargs="+", choices=sorted(CONTESTANTS), default=["ours", "trl", "trl-tuned"])
    parser.add_argument("--model", type=Path, help="a Llama-like model folder; default: the demo's base model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--micro-batch-size", type=int, default=2, help="pairs per forward pass")
    parser.add_argument("--cutoff-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/reward"))
    arguments = parser.parse_args()
    work = _prepare(arguments)
    work.write(arguments.folder / "work.json")
    runs: dict[str, list[Measurement]] = {name: [] for name in arguments.contestants}
    for _ in range(arguments.repeats):
        for name, measured_runs in runs.items():
            module, options = CONTESTANTS[name]
            file = str(arguments.folder.resolve() / "work.json")
            measured = run(f"benchmarks.contestants.{module}", [file, *options], num_threads=work.num_threads)
            measured_runs.append(measured)
            print(f"{name}: {measured.samples_per_s(work.batch_size):.3f} pairs/s, {measured.losses}", flush=True)
    best = {name: max(m.samples_per_s(work.batch_size) for m in found) for name, found in runs.items()}
    print("\n| | pairs/s | ours is | peak memory above weights, MB |\n|---|---|---|---|")
    for name, rate in best.items():
        memory = min(measured.peak_bytes - measured.base_bytes for measured in runs[name]) / 1e6
        print(f"| {name} | {rate:.3f} | {best.get('ours', rate) / rate:.2f}× | {memory:,.0f} |")


def _prepare(arguments: argparse.Namespace) -> Work:
    from loratory.adapter import attach_adapter, save_adapter
    from loratory.config import AdapterConfig, ModelConfig
    from loratory.data.reader import read_records
    from loratory.data.templates import bind_template
    from loratory.demo.base_model import ensure_base_model
    from loratory.model import load_model
    from loratory.model.task import ClassHead
    from loratory.objective.pairs import pair_sequences
    from loratory.objective.row import UnusableRowError

    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = arguments.model or ensure_base_model()
    loaded = load_model(ModelConfig(model_name_or_path=str(model)), head=ClassHead((), seed=42))
    template = bind_template("chat", loaded.tokenizer)
    needed = arguments.steps * arguments.batch_size
    rows: list[dict[str, list[int]]] = []
    for record in read_records(str(SHARED_DATA / "llamafactory_demo" / "dpo_en_demo.json")).records:
        try:
            pair = pair_sequences(record, template)
        except UnusableRowError:
            continue
        if max(map(len, pair)) <= arguments.cutoff_len and len(rows) < needed:
            names = zip(("chosen", "rejected"), pair, strict=True)
            rows.append(
                {name: each.token_ids.tolist() for name, each in names} | {"prompt_length": [pair[0].prompt_length]}
            )
    if len(rows) < needed:
        raise SystemExit(f"dpo_en_demo has {len(rows)} pairs of at most {arguments.cutoff_len} tokens, not {needed}")
    prompts = sum(row["prompt_length"][0] for row in rows) / needed
    whole = sum(len(row["chosen"]) + len(row["rejected"]) for row in rows) / needed
    print(f"{needed} pairs, prompts of {prompts:.0f} tokens, both answers {whole - 2 * prompts:.0f}", flush=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    section = AdapterConfig(rank=RANK, alpha=ALPHA)
    attached = attach_adapter(loaded.model, section, seed=42, new_modules=loaded.new_modules)
    save_adapter(attached.model, folder / "adapter", base_identity=loaded.identity)
    return Work(
        data="dpo_en_demo",
        model=str(model),
        adapter=str(folder / "adapter"),
        rows=str(folder / "rows.json"),
        records="",
        batch_size=arguments.batch_size,
        micro_batch_size=arguments.micro_batch_size,
        num_steps=arguments.steps,
        learning_rate=1e-4,
        num_threads=arguments.threads,
        seed=42,
    )


if __name__ == "__main__":
    main()
