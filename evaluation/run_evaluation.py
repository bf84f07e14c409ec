"""`evaluation/run_evaluation.py --model_path P --metrics all --output F`: measure a model and write the results.

Holds no logic: `loratory evaluate P` does the same.
"""

import argparse
from pathlib import Path

from loratory.cli import failures_as_exit_codes
from loratory.cli.evaluate import evaluate_path


def main() -> int:
    """Hand the flags to `loratory evaluate`."""
    parser = argparse.ArgumentParser(description="Perplexity, zero-shot accuracy, speed and memory of a model.")
    parser.add_argument("--model_path", required=True, help="pruned_model.bin, model folder, adapter folder or run")
    parser.add_argument("--metrics", default="all", help="all, or some of ppl,zero_shot,text,speed,memory")
    parser.add_argument("--output", type=Path, default=None, help="results file")
    parser.add_argument("--base_model", default=None, help="base of an adapter")
    parser.add_argument("--data", default=None, help="rows with answers")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="fields to override")
    flags = parser.parse_args()
    with failures_as_exit_codes():
        return evaluate_path(
            flags.model_path,
            flags.overrides,
            metrics=flags.metrics,
            output=flags.output,
            data=flags.data,
            base=flags.base_model,
        )


if __name__ == "__main__":
    raise SystemExit(main())
