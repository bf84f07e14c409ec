"""`merge_peft_model.py` and `scripts/peft_model_manager.py`: their documented flags, handed to the verbs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from loratory.cli.adapter import check_adapter, merge, save_adapter_as, validate

DTYPES = ("auto", "float32", "float16", "bfloat16")


def merge_from_flags(tokens: Sequence[str] | None = None) -> None:
    """Do what the flags of `merge_peft_model.py` say.

    Args:
        tokens: The command line without the program; default: that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="merge_peft_model.py", description="Look into an adapter, merge it into its base, validate the result."
    )
    parser.add_argument("--check_adapter", type=Path, metavar="A", help="what is in adapter A, and is it sound")
    parser.add_argument("--validate", type=Path, metavar="M", help="is the merged model M sound, does it generate")
    parser.add_argument("--base_model", metavar="B", help="the base model")
    parser.add_argument("--adapter_path", type=Path, metavar="A", help="the adapter")
    parser.add_argument("--output_path", type=Path, metavar="O", help="the merged model")
    parser.add_argument("--torch_dtype", choices=DTYPES, default="auto", help="format of the merged model")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier merged model")
    flags = parser.parse_args(tokens)
    wanted = (flags.adapter_path, flags.output_path)
    if flags.check_adapter is None and flags.validate is None and None in wanted:
        parser.error("give --check_adapter A, or --base_model B --adapter_path A --output_path O, or --validate M")
    if any(wanted) and (None in wanted or flags.base_model is None):
        parser.error("a merge needs --base_model B --adapter_path A --output_path O")
    if flags.check_adapter is not None:
        check_adapter(flags.check_adapter, base=flags.base_model if not any(wanted) else None)
    if flags.adapter_path is not None:
        merge(
            flags.adapter_path,
            flags.output_path,
            base=flags.base_model,
            dtype=flags.torch_dtype,
            overwrite=flags.overwrite,
        )
    if flags.validate is not None:
        validate(flags.validate)


def manage_from_flags(tokens: Sequence[str] | None = None) -> None:
    """Do what the flags of `scripts/peft_model_manager.py` say.

    Args:
        tokens: The command line without the program; default: that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="peft_model_manager.py", description="Save an adapter to a folder of its own, or merge it into its base."
    )
    parser.add_argument("--action", choices=("save", "merge"), required=True)
    parser.add_argument("--model_path", type=Path, metavar="P", help="save: a run, checkpoint or adapter")
    parser.add_argument("--base_model", metavar="B", help="merge: the base model")
    parser.add_argument("--adapter_path", type=Path, metavar="A", help="merge: the adapter")
    parser.add_argument("--output_path", type=Path, metavar="O", required=True, help="the new folder")
    parser.add_argument("--torch_dtype", choices=DTYPES, default="auto", help="merge: format of the merged model")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier merged model")
    flags = parser.parse_args(tokens)
    if flags.action == "save":
        if flags.model_path is None:
            parser.error("--action save needs --model_path P --output_path O")
        save_adapter_as(flags.model_path, flags.output_path)
        return
    if flags.base_model is None or flags.adapter_path is None:
        parser.error("--action merge needs --base_model B --adapter_path A --output_path O")
    merge(
        flags.adapter_path, flags.output_path, base=flags.base_model, dtype=flags.torch_dtype, overwrite=flags.overwrite
    )
