"""The `loratory` command: verbs to functions.

Each verb imports its room when it runs, so that `--help`, `--version` and configuration errors answer without torch.
No verb computes anything itself.
"""

from loratory.cli.app import make_app
from loratory.cli.failure import failures_as_exit_codes
from loratory.cli.training import train_from_file

__all__ = ["failures_as_exit_codes", "main", "train_from_file"]


def main() -> None:
    """Run the command line."""
    make_app()()
