"""DPO on real pairs beside TRL's: `python -m benchmarks.preference`.

Everyone gets the same token ids in the same optimizer batches, the same fresh LoRA adapter and the same rate. The
reference's log-probabilities of the pairs used are part of everyone's time: ours and TRL's tuned form compute them once
in front, TRL's default beside every step.
"""

import argparse
import json
from pathlib import Path

from benchmarks.measure import Measurement, run
from benchmarks.work import ALPHA, RANK, SHARED_DATA, TARGETS, Work

CONTESTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("dpo_ours", ()),
    "trl": ("dpo_trl", ()),
    "trl-tuned": ("dpo_trl", ("--tuned",)),
}


def main() -> None:
    """Prepare the pairs, run contestants in turn, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preference", description=__doc__)
    parser.add_argument("--contestants", nargs="+", choices=sorted(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--micro-batch-size", type=int, default=2, help="pairs per forward pass of TRL")
    parser.add_argument("--cutoff-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks/dpo"))
    arguments = parser.parse_args()
    work = _prepare(arguments)
    work.write(arguments.folder / "work.json")
    runs: dict[str, list[Measurement]] = {name: [] for name in arguments.contestants}
    for _ in range(arguments.repeats):
        for name in runs:
            module, options = CONTESTANTS[name]
            measured = run(
                f"benchmarks.contestants.{module}",
                [str(arguments.folder.resolve() / "work.json"), *options],
                num_threads=work.num_threads,
            )
            runs[name].append(measured)
            print(f"{name}: {_rate(measured, work):.3f} pairs/s, losses {measured.losses}", flush=True)
    best = {name: max(_rate(measured, work) for measured in measured_runs) for name, measured_runs in runs.items()}
    print("\n| | pairs/s | ours is | peak memory above weights, MB |\n|---|---|---|---|")
    for name, rate in best.items():
        memory = min(measured.peak_bytes - measured.base_bytes for measured in runs[name]) / 1e6
        print(f"| {name} | {rate:.3f} | {best.get('ours', rate) / rate:.2f}× | {memory:,.0f} |")


def _rate(measured: Measurement, work: Work) -> float:
    """Pairs per second of the steps and their reference together."""
    return work.batch_size * work.num_steps / (sum(measured.step_seconds) + measured.notes.get("reference_seconds", 0))


def _prepare(arguments: argparse.Namespace) -> Work:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from loratory.data.reader import read_records
    from loratory.data.templates import bind_template
    from loratory.demo.base_model import ensure_base_model
    from loratory.objective.pairs import pair_sequences
    from loratory.objective.row import UnusableRowError

    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = ensure_base_model()
    source = str(SHARED_DATA / "llamafactory_demo")
    records = read_records(
        "dpo_en_demo", format="auto", columns={}, system=None, max_bad_rows=0, require_answer=False, dataset_dir=source
    ).records
    template = bind_template("chat", AutoTokenizer.from_pretrained(model))
    needed = arguments.steps * arguments.batch_size
    rows: list[dict[str, list[int]]] = []
    for record in records:
        try:
            chosen, rejected = pair_sequences(record, template)
        except UnusableRowError:
            continue
        if max(len(chosen), len(rejected)) <= arguments.cutoff_len and len(rows) < needed:
            prompt = chosen.prompt_length
            rows.append(
                {
                    "prompt_ids": chosen.token_ids[:prompt].tolist(),
                    "chosen_ids": chosen.token_ids[prompt:].tolist(),
                    "rejected_ids": rejected.token_ids[prompt:].tolist(),
                }
            )
    if len(rows) < needed:
        raise SystemExit(f"dpo_en_demo has {len(rows)} pairs of at most {arguments.cutoff_len} tokens, not {needed}")
    lengths = [len(row["prompt_ids"]) for row in rows], [len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows]
    print(
        f"{needed} pairs, prompts of {sum(lengths[0]) / needed:.0f} tokens, both answers {sum(lengths[1]) / needed:.0f}"
    )
    (folder / "rows.json").write_text(json.dumps(rows))
    torch.manual_seed(42)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder / "adapter")
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
