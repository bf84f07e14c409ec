"""`python -m docs.methods` writes what is known about adapter methods: their options, off PEFT's classes."""

import json
from pathlib import Path

from loratory.adapter.peft_options import describe_methods

ROOT = Path(__file__).resolve().parents[1]
OPTIONS_FILE = ROOT / "src" / "loratory" / "config" / "adapter_methods.json"


def options_text() -> str:
    """The content of the options file."""
    return json.dumps(describe_methods(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OPTIONS_FILE.write_text(options_text(), encoding="utf-8")
    print(f"wrote {OPTIONS_FILE.relative_to(ROOT)}")
