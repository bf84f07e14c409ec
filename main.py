"""`main.py --config F --mode train --algorithm sft --experiment_name NAME`: train what the run file says, as NAME.

Writes outputs/NAME/{checkpoint-N, final_model, config_used.yaml}. Holds no logic: `loratory train` does the same.
"""

import argparse
from pathlib import Path

from loratory.cli import failures_as_exit_codes, train_from_file


def main() -> None:
    """Hand the flags to `loratory train`."""
    parser = argparse.ArgumentParser(description="Train with PEFT from one configuration file.")
    parser.add_argument("--config", type=Path, required=True, help="run file")
    parser.add_argument("--mode", choices=["train"], default="train", help="what to do")
    parser.add_argument("--algorithm", default=None, help="objective.name: sft, reward, dpo, kto, orpo, ppo, grpo, …")
    parser.add_argument("--experiment_name", default=None, help="name of the run: outputs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="throw away the run of that name")
    parser.add_argument("--reward-function", default=None, metavar="MODULE:FUNCTION", help="reward of an answer")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="fields to override")
    flags = parser.parse_args()
    named = {"objective.name": flags.algorithm, "run.name": flags.experiment_name}
    overrides = [f"{key}={value}" for key, value in named.items() if value is not None]
    with failures_as_exit_codes():
        train_from_file(
            flags.config,
            [*overrides, *flags.overrides],
            resume=flags.resume,
            overwrite=flags.overwrite,
            reward_function=flags.reward_function,
        )


if __name__ == "__main__":
    main()
