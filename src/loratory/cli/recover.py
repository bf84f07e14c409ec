"""`finetune_lora.py`: the documented flags, and training, whole model and evaluation one after the other."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from loratory.cli.console import note
from loratory.cli.evaluate import RESULTS_NAME, evaluate_path
from loratory.engine.libraries import load_libraries
from loratory.errors import LoratoryError
from loratory.interop.llm_pruner import ALL_PROJECTIONS, flags_from, recovery_values

if TYPE_CHECKING:
    from loratory.prune.recovery import RecoveredModel

EVALUATION_PARTS = "ppl,zero_shot,speed,memory"
_OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z_]\w*)+=")
_SUMMARY = "Recover a pruned model by LoRA: train, write the whole model and the adapter, evaluate."


def recovery_parser() -> argparse.ArgumentParser:
    """The parser of the documented flags; what is left out is None."""
    parser = argparse.ArgumentParser(prog="finetune_lora.py", description=_SUMMARY, allow_abbrev=False)
    for name, kind, text in _VALUES:
        parser.add_argument(f"--{name}", type=kind, required=name == "pruned_model", help=text)
    for name, text in _SWITCHES:
        parser.add_argument(f"--{name}", type=_truth, nargs="?", const=True, help=text)
    parser.add_argument("--resume_from_checkpoint", nargs="?", const="true", help="go on: a checkpoint, or nothing")
    own = parser.add_argument_group("ours")
    own.add_argument("--overwrite", action="store_true", help="throw away the run in output_dir")
    own.add_argument("--eval_metrics", default=EVALUATION_PARTS, help=f"parts, default {EVALUATION_PARTS}")
    own.add_argument("--eval_data_dir", default=None, help="folder with local wikitext2/, ptb/ and zero_shot/ data")
    own.add_argument("--eval_limit", type=int, default=None, help="at most so many windows and rows")
    parser.epilog = "Further fields of a run: section.key=value"
    return parser


def recover_from_flags(tokens: Sequence[str] | None = None) -> int:
    """Do what the flags say.

    Args:
        tokens: The command line without the program; default: that of the process.

    Returns:
        The exit code: that of the evaluation when it is not complete, else 0.

    Raises:
        LoratoryError: As configuration, training and merging raise it.
        SystemExit: The flags cannot be parsed.
    """
    given = sys.argv[1:] if tokens is None else tokens
    # Taken out first: a switch that may have a value would swallow one.
    overrides = [token for token in given if _OVERRIDE.match(token)]
    parsed = vars(recovery_parser().parse_args([token for token in given if not _OVERRIDE.match(token)]))
    flags = flags_from(parsed)
    from loratory.config import build_config

    config = build_config(recovery_values(flags), overrides)
    load_libraries()
    from loratory.prune.recovery import recover_model

    recovered = recover_model(config, resume=flags.is_resuming, overwrite=parsed["overwrite"])
    if not recovered.is_main:
        return 0
    typer.echo(f"recovered model: {recovered.pickled}")
    typer.echo(f"the same as a folder: {recovered.merged}")
    typer.echo(f"adapter: {recovered.adapter}")
    return 0 if flags.skip_evaluation else _evaluate(recovered, parsed, overrides)


def _evaluate(recovered: "RecoveredModel", parsed: dict[str, Any], overrides: Sequence[str]) -> int:
    settings = {"data_dir": parsed["eval_data_dir"], "limit": parsed["eval_limit"]}
    file = recovered.training.run_dir / "evaluation" / RESULTS_NAME
    file.parent.mkdir(exist_ok=True)
    try:
        return evaluate_path(
            str(recovered.merged),
            [token for token in overrides if token.startswith("evaluation.")],
            metrics=parsed["eval_metrics"],
            output=file,
            settings={name: value for name, value in settings.items() if value is not None},
        )
    except LoratoryError:
        note("the recovered model stands; only its evaluation failed (--skip_evaluation leaves it out)")
        raise


def _truth(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.casefold() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.casefold()]


_VALUES: tuple[tuple[str, Any, str], ...] = (
    ("pruned_model", str, "pruned_model.bin, or any model's folder or name"),
    ("data_path", str, "rows in Alpaca form: file or hub name (yahma/alpaca-cleaned)"),
    ("val_set_size", float, "validation rows (2000)"),
    ("cutoff_len", int, "longest row in tokens (256)"),
    ("prompt_template_name", str, "templates/NAME.json, or a known template (alpaca)"),
    ("batch_size", int, "rows of a step (64)"),
    ("micro_batch_size", int, "rows of a forward pass (4)"),
    ("num_epochs", float, "passes over the rows (2)"),
    ("learning_rate", float, "peak rate (1e-4)"),
    ("lora_r", int, "rank (8)"),
    ("lora_alpha", float, "scale numerator (16)"),
    ("lora_dropout", float, "dropout (0.05)"),
    ("lora_target_modules", str, f"names with commas ({ALL_PROJECTIONS})"),
    ("output_dir", str, "results (results/<model_name>_finetuned)"),
    ("wandb_project", str, "Weights & Biases project; empty: not used"),
)
_SWITCHES = (
    ("skip_evaluation", "do not evaluate afterwards"),
    ("train_on_inputs", "train prompt tokens too"),
    ("add_eos_token", "accepted: the end token is trained in any case"),
    ("group_by_length", "put rows of similar length together"),
)
