"""The `loratory` command: verbs to functions.

Each verb imports its room when it runs, so that `--help`, `--version` and configuration errors answer without torch.
No verb computes anything itself.
"""

from loratory.cli.app import make_app
from loratory.cli.evaluate import evaluate_path
from loratory.cli.failure import failures_as_exit_codes
from loratory.cli.sft import train_with_recipe
from loratory.cli.training import train_from_file

__all__ = ["evaluate_path", "failures_as_exit_codes", "main", "train_from_file", "train_with_recipe"]


def main() -> None:
    """Run the command line."""
    make_app()()
