"""Prune SmolLM2-135M by a fifth, recover it, measure it before, after and recovered: one command, a page of figures.

    python examples/pruned/run.py [--data-dir FOLDER] [--work FOLDER] [--instructions]

FOLDER holds wikitext2/{valid.txt, wiki.test.raw} and zero_shot/. Nothing is trained or calibrated on the test text.
What an earlier call has finished in --work is kept, so that a call that was stopped goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loratory.demo.base_model import ensure_base_model

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROW_CHARS = 1000
ZERO_SHOT_LIMIT = 50
WINDOWS = {128: 60, 1024: 6}
TEXT, INSTRUCTIONS = "recovered on text", "recovered on instructions"
OVERRIDES = {TEXT: ("data.format=text",), INSTRUCTIONS: ()}


def main() -> None:
    """Run all of it and write README.md beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("outputs/pruned"))
    parser.add_argument("--instructions", action="store_true", help="a second recovery, on instruction rows")
    parser.add_argument("--max-steps", type=int, default=40, help="optimizer steps of each recovery")
    flags = parser.parse_args()
    work = flags.work
    work.mkdir(parents=True, exist_ok=True)
    base, pruned = ensure_base_model(), work / "smollm2_pruned"
    valid = flags.data_dir / "wikitext2" / "valid.txt"
    if not pruned.is_dir():
        loratory(
            "prune", str(base), "--output", str(pruned), "--ratio", "0.2", "--importance", "taylor",
            "--calibration", f"wikitext2:{valid}", "--calibration-windows", "8",
        )  # fmt: skip
    arms = {TEXT: write_rows(valid, work / "wikitext_valid.jsonl")}
    if flags.instructions:
        arms[INSTRUCTIONS] = flags.data_dir / "alpaca_en" / "alpaca_data_1k.json"
    subjects = {"base": base, "pruned": pruned}
    for arm, rows in arms.items():
        output = work / arm.replace(" ", "_")
        recover(pruned, rows, output, flags.max_steps, OVERRIDES[arm])
        subjects[arm] = output / "merged_model"
    results = {
        name: evaluate(subject, work / "results" / name.replace(" ", "_"), flags.data_dir)
        for name, subject in subjects.items()
    }
    record = json.loads((pruned / "pruning.json").read_text(encoding="utf-8"))
    page = render(record, results, flags.max_steps)
    (HERE / "README.md").write_text(page, encoding="utf-8")
    print(page)


def loratory(*arguments: str) -> None:
    """Run a command of loratory's."""
    run([sys.executable, "-m", "loratory", *arguments])


def run(command: Sequence[str]) -> None:
    """Show a command and run it."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def recover(pruned: Path, rows: Path, output: Path, max_steps: int, overrides: Sequence[str]) -> None:
    """Train and merge with the documented script."""
    run(
        [
            sys.executable, str(ROOT / "finetune_lora.py"), "--pruned_model", str(pruned), "--data_path", str(rows),
            "--output_dir", str(output), "--val_set_size", "16", "--batch_size", "4", "--micro_batch_size", "4",
            "--lora_r", "32", "--lora_alpha", "64", "--lora_dropout", "0", "--learning_rate", "1e-3",
            "--skip_evaluation", "--resume_from_checkpoint", *overrides,
            f"train.max_steps={max_steps}", "train.logging_steps=10", "train.eval_steps=1000",
            "train.save_steps=1000", "train.keep_best=false",
        ]
    )  # fmt: skip


def write_rows(text: Path, output: Path) -> Path:
    """Paragraphs of a text as rows of about `ROW_CHARS` characters."""
    rows, row = [], ""
    for line in text.read_text(encoding="utf-8").splitlines(keepends=True):
        row += line
        if len(row) >= ROW_CHARS:
            rows.append(row[: 2 * ROW_CHARS])
            row = ""
    output.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return output


def evaluate(subject: Path, folder: Path, data_dir: Path) -> dict[str, Any]:
    """Perplexity at both windows, zero-shot slices, speed and memory; the measures by name."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for window, limit in WINDOWS.items():
        file = folder / f"ppl_{window}.json"
        if not is_complete(file):
            loratory(
                "evaluate", str(subject), "--metrics", "ppl", "--text", "wikitext2", "--window", str(window),
                "--limit", str(limit), "--data-dir", str(data_dir), "--output", str(file),
            )  # fmt: skip
        found |= measures(file)
    file = folder / "rest.json"
    if not is_complete(file):
        loratory(
            "evaluate", str(subject), "evaluation.speed_batch_sizes=[1]", "evaluation.speed_repeats=3", "--metrics",
            "zero_shot,speed,memory", "--tasks", "arc_easy,boolq", "--limit", str(ZERO_SHOT_LIMIT), "--data-dir",
            str(data_dir), "--output", str(file),
        )  # fmt: skip
    return found | measures(file)


def is_complete(file: Path) -> bool:
    """Whether an earlier call has measured this."""
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["status"] == "complete"


def measures(file: Path) -> dict[str, Any]:
    """Measures of a results file as 'name on' -> measure."""
    parts = json.loads(file.read_text(encoding="utf-8"))["parts"].values()
    return {f"{each['name']} {each['on']}": each for part in parts for each in part["measures"]}


def pick(found: Mapping[str, Any], *words: str) -> dict[str, Any]:
    """The first measure whose name holds all the words."""
    return next(each for name, each in found.items() if all(word in name for word in words))


def shown(measure: Mapping[str, Any], digits: int = 2) -> str:
    """Value with its interval."""
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    text = f"{value:.{digits}f}"
    return text if low is None or high is None else f"{text} ({low:.{digits}f}–{high:.{digits}f})"


def render(record: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], steps: int) -> str:
    """The page of figures."""
    rows = {
        "perplexity, window 128": [shown(pick(results[s], "perplexity@window=128")) for s in results],
        "perplexity, window 1024": [shown(pick(results[s], "perplexity@window=1024")) for s in results],
        "ARC-easy accuracy, %": [shown(pick(results[s], "acc", "arc_easy"), 1) for s in results],
        "BoolQ accuracy, %": [shown(pick(results[s], "acc", "boolq"), 1) for s in results],
        "prefill, tokens/s": [shown(pick(results[s], "prefill@"), 0) for s in results],
        "decode, tokens/s": [shown(pick(results[s], "decode@"), 1) for s in results],
    }
    for name, word in (
        ("weights in memory, MB", "size_in_memory"),
        ("peak memory while answering, MB", "peak_memory@"),
    ):
        rows[name] = [f"{pick(results[s], word)['value'] / 1e6:.0f}" for s in results]
    table = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    table += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    gains = []
    for window in WINDOWS:
        base, pruned, *recovered = (pick(results[s], f"perplexity@window={window}")["value"] for s in results)
        for arm, value in zip(list(results)[2:], recovered, strict=True):
            gains.append(f"- window {window}, {arm}: {(pruned - value) / (pruned - base):.0%} of the perplexity lost")
    removed = record["parameters_before"] - record["parameters_after"]
    first, last = record["layers"]
    return PAGE.format(
        removed=removed, prunable=record["prunable"], share=removed / record["prunable"], first=first, last=last,
        after=record["parameters_after"], before=record["parameters_before"],
        of_all=removed / record["parameters_before"], table="\n".join(table), gains="\n".join(gains), steps=steps,
        n128=WINDOWS[128], n1024=WINDOWS[1024], n_zero=ZERO_SHOT_LIMIT,
    )  # fmt: skip


PAGE = """\
# Prune a fifth, recover, measure

`python examples/pruned/run.py` (or `make study-pruned`) made this page: SmolLM2-135M-Instruct (dequantised from Q4_1),
float32, on a CPU with two cores.

Pruned: {removed:,} of the {prunable:,} prunable parameters ({share:.1%}), which are the attention and feed-forward
projections of layers {first} to {last}; the whole model went from {before:,} to {after:,} parameters ({of_all:.1%}
fewer). Whole head groups and feed-forward channels went, the least important first over all layers, by first-order
Taylor importance on 8 windows of 128 tokens of WikiText-2's validation part.

Recovered: LoRA of rank 32 on all projections, {steps} steps of 4 rows of at most 256 tokens, learning rate 1e-3, merged
with a certificate. On text: rows of WikiText-2's validation part. On instructions (`--instructions`): 1,000 rows of
Alpaca.

{table}

In brackets: 95 % intervals, over windows (perplexity) or questions (accuracy); for rates, quartiles of 3 repeats.
Perplexity is of WikiText-2's test part, never trained or calibrated on: its first {n128} windows of 128 tokens and
first {n1024} of 1,024. Accuracies are of the first {n_zero} questions, too few to tell models of this size apart.

Won back:

{gains}

Read with care: the text arm trains on the same kind of text that is measured, so that a part of what it wins back is
knowledge of that style, which training would have given the unpruned model too. Instruction rows have no such
advantage.
"""


if __name__ == "__main__":
    main()
