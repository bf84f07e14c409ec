"""A run file on a tiny model, for tests that start real processes."""

import json
from pathlib import Path
from typing import Any

from loratory.config.document import dump_document


def run_file(folder: Path, model: Path, name: str, **train: Any) -> str:
    """A run file on a tiny model, with rows that it writes."""
    rows = [{"instruction": f"question {i}", "input": "", "output": "yes" if i % 2 else "no"} for i in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    values = {
        "model": {"model_name_or_path": str(model)},
        "data": {"train": str(folder / "rows.json"), "template": "chatml"},
        "train": {"num_epochs": 1.0, "batch_size": 4, "learning_rate": 1e-2, "num_threads": 1, **train},
        "run": {"name": name},
    }
    return dump_document(values)
