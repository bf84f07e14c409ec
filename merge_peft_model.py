"""`merge_peft_model.py --check_adapter A | --base_model B --adapter_path A --output_path O | --validate M`.

Holds no logic: `loratory adapter check|merge|validate` do the same.
"""

from loratory.cli import failures_as_exit_codes
from loratory.cli.adapter_scripts import merge_from_flags


def main() -> None:
    """Hand the flags to the verbs about adapters."""
    with failures_as_exit_codes():
        merge_from_flags()


if __name__ == "__main__":
    main()
