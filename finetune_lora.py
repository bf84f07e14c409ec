"""`finetune_lora.py --pruned_model results/NAME/pruned_model.bin [flags]`: recover a pruned model by LoRA.

Writes results/NAME_finetuned/{pruned_model.bin, lora_adapter, evaluation, checkpoint-N}. Holds no logic.
"""

import sys

from loratory.cli import failures_as_exit_codes
from loratory.cli.recover import recover_from_flags


def main() -> None:
    """Hand the flags to recovery."""
    with failures_as_exit_codes():
        exit_code = recover_from_flags()
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
