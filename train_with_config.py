"""`train_with_config.py --model_path M --dataset_name D --config F --output_dir O --num_epochs N [--execute]`.

Prints the whole training command that the PEFT adapter file F means, ready to copy; with --execute, trains right here.
Holds no logic: `loratory sft` takes the printed flags.
"""

import argparse
from pathlib import Path

from loratory.cli import failures_as_exit_codes, train_with_recipe


def main() -> None:
    """Hand the flags to the recipe."""
    parser = argparse.ArgumentParser(description="Training command of a PEFT adapter configuration file.")
    parser.add_argument("--model_path", required=True, help="base model: hub name or folder")
    parser.add_argument("--dataset_name", required=True, help="training rows: hub name or file")
    parser.add_argument("--config", type=Path, required=True, help="PEFT adapter configuration, JSON")
    parser.add_argument("--output_dir", required=True, help="folder of the run")
    parser.add_argument("--num_epochs", type=float, default=1, help="passes over the rows")
    parser.add_argument("--execute", action="store_true", help="train instead of only printing the command")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="throw away the run in output_dir")
    flags = parser.parse_args()
    with failures_as_exit_codes():
        train_with_recipe(
            flags.config,
            model_path=flags.model_path,
            dataset_name=flags.dataset_name,
            output_dir=flags.output_dir,
            num_epochs=flags.num_epochs,
            execute=flags.execute,
            resume=flags.resume,
            overwrite=flags.overwrite,
        )


if __name__ == "__main__":
    main()
