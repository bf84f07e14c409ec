"""The table of a study's trials."""

from collections.abc import Sequence
from typing import Any

from loratory.report.study import Study
from loratory.report.tables import Cell, Table, value_cell


def trials_table(study: Study) -> Table:
    """One row for each trial, failed ones with their reason."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial["params"]))
    has_reasons = any(trial["reason"] for trial in study.trials)
    header = ("trial", *(key.rpartition(".")[2] for key in keys), study.metric, "state", "steps", "seconds")
    rows = [_row(trial, keys, has_reasons=has_reasons) for trial in study.trials]
    caption = f"Trials of study {study.name}, the best first"
    return Table(caption, (*header, "reason") if has_reasons else header, tuple(rows), is_sortable=True)


def _row(trial: dict[str, Any], keys: Sequence[str], *, has_reasons: bool) -> tuple[Cell, ...]:
    value, spread = trial["value"], trial["spread"]
    words = "–" if value is None else f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
    cells = [
        Cell(trial["name"]),
        *(_setting(trial["params"].get(key)) for key in keys),
        Cell(words, value),
        Cell(trial["state"]),
        Cell(str(trial["steps"]), trial["steps"]),
        Cell(f"{trial['seconds']:.1f}", trial["seconds"]),
    ]
    return (*cells, Cell(trial["reason"])) if has_reasons else tuple(cells)


def _setting(value: Any) -> Cell:
    if isinstance(value, bool) or value is None:
        return Cell({True: "yes", False: "no", None: "–"}[value])
    if isinstance(value, float):
        return value_cell(f"{value:.4g}")
    return value_cell(", ".join(map(str, value)) if isinstance(value, list) else str(value))
