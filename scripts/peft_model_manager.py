"""`scripts/peft_model_manager.py --action save|merge …`: an adapter in a folder of its own, or merged into its base.

Holds no logic: `loratory adapter save|merge` do the same.
"""

from loratory.cli import failures_as_exit_codes
from loratory.cli.adapter_scripts import manage_from_flags


def main() -> None:
    """Hand the flags to the verbs about adapters."""
    with failures_as_exit_codes():
        manage_from_flags()


if __name__ == "__main__":
    main()
