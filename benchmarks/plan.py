"""How right `loratory plan` is here: forecast and measured peak memory and time of a step, on configurations held out.

Three random Llamas (about 10M and 30M parameters, and SmolLM2-135M's shapes) times settings, each run in a process of
its own for a few steps. The planner has learned from the runs of `PAST` before; those of `HELD_OUT` are judged.

    python -m benchmarks.plan --calibrate --model all     # or one model at a time: small, middle, smollm2
    python -m benchmarks.plan --report                    # tables from the runs so far, also in FOLDER/table.md
    python -m benchmarks.plan --calibrate --replan        # the same runs, forecast anew by a changed planner

Runs that are there already are not done again, unless --fresh is given.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from loratory.engine.forecast.record import read_record
from loratory.plan.history import PastRun, correction, past_runs

FOLDER = Path("outputs/benchmarks/plan")
NUM_STEPS = {"small": 12, "middle": 8, "smollm2": 4}  # some seconds each: a shared machine changes its pace
MODELS: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 16384},
    "middle": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 6,
               "num_key_value_heads": 2, "vocab_size": 32768},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "vocab_size": 49152},
}  # fmt: skip
SHORT, LONG = "short.json", "long.json"
Setting = tuple[str, str, tuple[str, ...]]
PAST: tuple[Setting, ...] = (
    ("past-fused", SHORT, ("train.batch_size=12", "adapter.rank=16")),
    ("past-plain", LONG, ("train.batch_size=3", "adapter.method=loha", "adapter.options={r: 4}")),
    ("past-padded", LONG, ("train.batch_size=4", "train.micro_batch_size=2", "adapter.dropout=0.05")),
)
HELD_OUT: tuple[Setting, ...] = (
    ("short-b16", SHORT, ("train.batch_size=16",)),
    ("short-b8-m2-r64", SHORT, ("train.batch_size=8", "train.micro_batch_size=2", "adapter.rank=64")),
    ("long-b4-r32", LONG, ("train.batch_size=4", "adapter.rank=32")),
    ("long-b8-qv", LONG, ("train.batch_size=8", "adapter.targets=[q_proj, v_proj]")),
    ("short-b8-dora", SHORT, ("train.batch_size=8", "adapter.use_dora=true")),
    ("long-b4-checkpointing", LONG, ("train.batch_size=4", "train.gradient_checkpointing=true")),
    ("short-b6-dropout", SHORT, ("train.batch_size=6", "adapter.dropout=0.1")),
    ("short-b8-qlora", SHORT, ("train.batch_size=8", "quantization.load_in_4bit=true")),
    ("long-b2-full", LONG, ("train.batch_size=2", "adapter.method=full")),
)
LEFT_OUT = {("smollm2", "long-b2-full")}  # its checkpoints are 1.6 GB each


def main() -> None:
    """Run what was asked for, then print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--model", choices=[*MODELS, "all"], help="run the configurations of this model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only tables")
    parser.add_argument(
        "--replan", action="store_true", help="forecast the runs that are there anew, by today's planner"
    )
    parser.add_argument("--calibrate", action="store_true", help="measure the machine anew before each model")
    parser.add_argument("--fresh", action="store_true", help="do runs again that are there")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run; as many as NUM_STEPS says if not given")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.calibrate and not arguments.model:
        _calibrate(arguments.threads)
    if arguments.model and not arguments.report:
        for name in MODELS if arguments.model == "all" else [arguments.model]:
            if arguments.calibrate:
                _calibrate(arguments.threads)
            prepare(folder, name)
            _run_all(folder, name, threads=arguments.threads, steps=arguments.steps, is_fresh=arguments.fresh)
    if arguments.replan:
        _replan(folder, arguments.threads)
    found = tables(folder)
    (folder / "table.md").write_text(found + "\n")
    print(found)


def _run_all(folder: Path, model: str, *, threads: int, steps: int | None, is_fresh: bool) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    for name, _, _ in (*PAST, *HELD_OUT):
        place = run_folder(folder, model) / name
        record = read_record(place)
        if (model, name) in LEFT_OUT or (not is_fresh and record is not None and record.measured is not None):
            continue
        start_s = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "benchmarks.plan_runs",
            str(folder),
            model,
            name,
            str(threads),
            str(steps or NUM_STEPS[model]),
        ]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        fault = f": {done.stderr.splitlines()[-1]}" if done.returncode else ""
        print(f"{model} {name}: {time.perf_counter() - start_s:.0f} s{fault}", flush=True)
        for weights in (*place.glob("checkpoint-*"), place / "final_model"):
            shutil.rmtree(weights, ignore_errors=True)


def _replan(folder: Path, threads: int) -> None:
    import torch

    from loratory.config import read_config
    from loratory.engine.forecast.machine import fingerprint
    from loratory.engine.forecast.record import predicted_figures, write_record
    from loratory.plan.planning import make_plan

    torch.set_num_threads(threads)
    for place in sorted((folder / "runs").glob("*/*/")):
        record = read_record(place)
        if record is not None:
            config = read_config(place / "config_used.yaml").config
            forecast = make_plan(config, may_calibrate=False, note=lambda line: None).forecast
            predicted = predicted_figures(forecast)
            write_record(place, replace(record, machine=fingerprint(threads), path=forecast.path, predicted=predicted))


def _calibrate(threads: int) -> None:
    import torch

    from loratory.engine.forecast.machine import write_machine
    from loratory.plan.calibrate import calibrate

    torch.set_num_threads(threads)
    write_machine(calibrate(), threads)


def prepare(folder: Path, name: str) -> None:
    """Random model, tokenizer and rows; made once."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    target = folder / "models" / name
    if not (target / "tokenizer_config.json").is_file():  # written last
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2} | {c: i + 3 for i, c in enumerate(alphabet)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        torch.manual_seed(0)
        config = LlamaConfig(**MODELS[name], tie_word_embeddings=True, max_position_embeddings=2048)
        LlamaForCausalLM(config).save_pretrained(target)
        fast.save_pretrained(target)
    generator = random.Random(0)
    for file, words in ((SHORT, 2), (LONG, 15)):
        rows = []
        for index in range(64):
            text = " ".join(str(generator.randrange(1000)) for _ in range(generator.randrange(words, 2 * words + 1)))
            rows.append({"instruction": f"say {index}", "input": text, "output": text[: 4 + len(text) // 2]})
        (folder / file).write_text(json.dumps(rows))


def configuration(name: str) -> tuple[str, tuple[str, ...]]:
    """File of rows and overrides."""
    return next((file, changes) for known, file, changes in (*PAST, *HELD_OUT) if known == name)


def run_folder(folder: Path, model: str) -> Path:
    """Where a model's runs are."""
    return folder / "runs" / model


def tables(folder: Path) -> str:
    """Errors of the held-out configurations, without and with the factors of the past ones."""
    runs = {(model, run.name): run for model in MODELS for run in past_runs(run_folder(folder, model))}
    past = {name for name, _, _ in PAST}
    known = [run for (_, name), run in runs.items() if name in past]
    lines = [
        "| configuration | path | peak, MiB | forecast | error | s/step | forecast | error | corrected |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[str, list[float]] = {}
    for model in MODELS:
        for name, _, _ in HELD_OUT:
            if (model, name) in runs:
                lines.append(_line(f"{model} {name}", runs[model, name], known, found))
    exact = sum(run.is_exact for run in runs.values())
    lines += [
        "",
        f"{len(runs)} configurations, {len(known)} of them past runs; trained numbers and files exact in {exact}.",
        "",
        *_summary(found),
    ]
    return "\n".join(lines)


def _line(name: str, run: PastRun, known: Sequence[PastRun], found: dict[str, list[float]]) -> str:
    record, cells = run.record, [name, run.record.path]
    factor = correction(known, machine=record.machine, path=record.path)
    for kind, ratio, own in (("peak", run.memory_ratio, factor.memory), ("time", run.time_ratio, factor.time)):
        if ratio is not None:
            found.setdefault(f"{kind}, uncorrected", []).append(abs(1 / ratio - 1))
            found.setdefault(kind, []).append(abs(own / ratio - 1))
    planned, measured = record.predicted, record.measured
    assert measured is not None
    cells += [f"{(measured.peak_bytes or 0) / 2**20:.0f}", f"{(planned.peak_bytes or 0) / 2**20:.0f}"]
    cells.append("" if run.memory_ratio is None else f"{1 / run.memory_ratio - 1:+.1%}")
    if run.time_ratio is not None and planned.step_seconds and measured.step_seconds:
        cells += [f"{measured.step_seconds:.3f}", f"{planned.step_seconds:.3f}", f"{1 / run.time_ratio - 1:+.1%}"]
        cells.append(f"{factor.time / run.time_ratio - 1:+.1%}")
    return "| " + " | ".join(cells) + " |"


def _summary(found: Mapping[str, list[float]]) -> list[str]:
    lines = ["| error of | median | largest | within 10 % | within 20 % |", "|---|---|---|---|---|"]
    for name, errors in found.items():
        within = [f"{sum(e <= bound for e in errors)} of {len(errors)}" for bound in (0.1, 0.2)]
        lines.append(f"| {name} | {median(errors):.1%} | {max(errors):.1%} | {within[0]} | {within[1]} |")
    return lines


if __name__ == "__main__":
    main()
