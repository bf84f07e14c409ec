"""How right `loratory plan` is here: forecast and measured peak memory and time of a step, on configurations held out.

Three random Llamas (about 10M and 30M parameters, and SmolLM2-135M's shapes) times settings, each run in a process of
its own for a few steps. Every second configuration gives the correction factors, the others are judged.

    python -m benchmarks.plan --model all                 # or one model at a time: small, middle, smollm2
    python -m benchmarks.plan --report                    # tables from the runs so far
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

FOLDER = Path("outputs/benchmarks/plan")
NUM_STEPS = 3
MODELS: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 16384},
    "middle": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 6,
               "num_key_value_heads": 2, "vocab_size": 32768},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                "num_key_value_heads": 3, "vocab_size": 49152},
}  # fmt: skip
SHORT, LONG = "short.json", "long.json"
SETTINGS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("short-b16", SHORT, ("train.batch_size=16",)),
    ("short-b16-r64", SHORT, ("train.batch_size=16", "adapter.rank=64")),
    ("long-b4", LONG, ("train.batch_size=4",)),
    ("long-b8-qv", LONG, ("train.batch_size=8", "adapter.targets=[q_proj, v_proj]")),
    ("short-b8-m2", SHORT, ("train.batch_size=8", "train.micro_batch_size=2")),
    ("long-b6-m2-r32", LONG, ("train.batch_size=6", "train.micro_batch_size=2", "adapter.rank=32")),
    ("short-b8-dora", SHORT, ("train.batch_size=8", "adapter.use_dora=true")),
    ("short-b12-dora", SHORT, ("train.batch_size=12", "adapter.use_dora=true")),
    ("long-b2-dora", LONG, ("train.batch_size=2", "adapter.use_dora=true")),
    ("short-b12-m6-dora", SHORT, ("train.batch_size=12", "train.micro_batch_size=6", "adapter.use_dora=true")),
)
"""The first of each pair of settings calibrates, the second is held out."""


def main() -> None:
    """Run what was asked for, then print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--model", choices=[*MODELS, "all"], help="run the configurations of this model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only tables")
    parser.add_argument("--calibrate", action="store_true", help="measure the machine anew first")
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.calibrate:
        _calibrate(arguments.threads)
    if arguments.model and not arguments.report:
        for name in MODELS if arguments.model == "all" else [arguments.model]:
            prepare(folder, name)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.plan_runs", str(folder), name, str(arguments.threads),
                 str(arguments.steps)],
                check=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)},
            )  # fmt: skip
    print(tables(folder))


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
    if not (target / "config.json").is_file():
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


def configurations() -> list[tuple[str, bool, str, tuple[str, ...]]]:
    """Name, whether it calibrates, file of rows, overrides."""
    return [(name, index % 2 == 0, file, changes) for index, (name, file, changes) in enumerate(SETTINGS)]


def run_folder(folder: Path, model: str) -> Path:
    """Where a model's runs are."""
    return folder / "runs" / model


def tables(folder: Path) -> str:
    """Errors of the held-out configurations, without and with the factors of the others."""
    from loratory.plan.history import correction, past_runs

    names = {name: is_first for name, is_first, _, _ in configurations()}
    runs = {
        f"{model} {run.name}": (run, names[run.name])
        for model in MODELS
        for run in past_runs(run_folder(folder, model))
        if run.name in names
    }
    known = [run for run, is_first in runs.values() if is_first]
    lines = [
        "| configuration | path | peak, MiB | forecast | error | s/step | forecast | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[str, list[float]] = {"peak": [], "peak, uncorrected": [], "time": [], "time, uncorrected": []}
    for name, (run, is_first) in runs.items():
        if is_first:
            continue
        record = run.record
        assert record.measured is not None
        factor = correction(known, machine=record.machine, path=record.path)
        memory = factor.memory / run.memory_ratio - 1
        found["peak"].append(abs(memory))
        found["peak, uncorrected"].append(abs(1 / run.memory_ratio - 1))
        cells = [name, record.path, f"{record.measured.peak_bytes / 2**20:.0f}"]
        cells += [f"{record.predicted.peak_bytes * factor.memory / 2**20:.0f}", f"{memory:+.1%}"]
        if run.time_ratio is not None and record.predicted.step_seconds and record.measured.step_seconds:
            error = factor.time / run.time_ratio - 1
            found["time"].append(abs(error))
            found["time, uncorrected"].append(abs(1 / run.time_ratio - 1))
            cells += [f"{record.measured.step_seconds:.3f}", f"{record.predicted.step_seconds * factor.time:.3f}"]
            cells.append(f"{error:+.1%}")
        lines.append("| " + " | ".join(cells) + " |")
    exact = sum(run.is_exact for run, _ in runs.values())
    lines += ["", f"{len(runs)} configurations, {len(known)} of them for the factors; "
              f"trained numbers and files exact in {exact}.", "", *_summary(found)]  # fmt: skip
    return "\n".join(lines)


def _summary(found: Mapping[str, list[float]]) -> list[str]:
    lines = ["| error of | median | largest | within 10 % | within 20 % |", "|---|---|---|---|---|"]
    for name, errors in found.items():
        if errors:
            within = [f"{sum(e <= bound for e in errors)} of {len(errors)}" for bound in (0.1, 0.2)]
            lines.append(f"| {name} | {median(errors):.1%} | {max(errors):.1%} | {within[0]} | {within[1]} |")
    return lines


def clean(path: Path) -> None:
    """Remove an earlier run of the same configuration."""
    shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
