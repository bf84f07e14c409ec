"""Results as Markdown tables: rates, ratios, memory, gaps between loss curves, efficiency, ladder."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.measure import Measurement

REFERENCE = "peft-sorted"
"""The padded peer that sees the same optimizer batches: its loss curve is the reference."""


def loss_gap(runs: Mapping[str, Sequence[Measurement]], name: str) -> float | None:
    """Largest distance between a contestant's loss curve and the reference's, in nats per token."""
    reference = runs.get(REFERENCE) or runs.get("peft")
    if not reference or name == "peft-tuned":  # which chooses batches of its own
        return None
    pairs = zip(runs[name][0].losses, reference[0].losses, strict=True)
    return max(abs(a - b) for a, b in pairs)


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """All tables of a results file."""
    return "\n\n".join(_table(result) for result in results)


def _table(result: Mapping[str, Any]) -> str:
    work = result["work"]
    batch_size = work["batch_size"]
    runs = {name: [Measurement(**m) for m in measured] for name, measured in result["runs"].items()}
    rates = {name: median(m.samples_per_s(batch_size) for m in measured) for name, measured in runs.items()}
    bound_s = median(b["step_seconds"][0] for b in result["bounds"]) if result["bounds"] else None
    lines = [
        f"**{work['data']}**, {work['num_steps']} steps of {batch_size} rows, {work['num_threads']} threads, "
        f"{len(next(iter(runs.values())))} rounds, median",
        "",
        "| | samples/s | ours is | peak memory above weights, MB | largest loss gap | GEMM bound / step | start, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, measured in runs.items():
        above = median(m.peak_bytes - m.base_bytes for m in measured) / 1e6
        gap = result["loss_gap"][name]
        ratio = f"{rates['ours'] / rates[name]:.2f}×" if "ours" in rates else ""
        efficiency = f"{bound_s * rates[name] / batch_size:.2f}" if bound_s is not None else ""
        lines.append(
            f"| {name} | {rates[name]:.2f} | {ratio} | {above:,.0f} | {'' if gap is None else f'{gap:.1e}'} "
            f"| {efficiency} | {median(m.startup_seconds for m in measured):.0f} |"
        )
    if bound_s is not None:
        notes = result["bounds"][0]["notes"]
        lines += ["", f"GEMM bound {bound_s:.2f} s a step ({notes['gflops']:.0f} GFLOP/s in the layers)."]
    return "\n".join(lines)
