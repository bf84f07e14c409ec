"""Plans and their history as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from loratory.engine.forecast.run_forecast import RunForecast
    from loratory.plan.history import PastRun
    from loratory.plan.planning import Plan

_MIB, _GIB = 2**20, 2**30
_PARTS = {
    "process": "process and libraries",
    "weights": "weights",
    "quantised_weights": "quantised weights",
    "adapter": "trained numbers",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits",
    "workspace": "workspace",
}
_BAR = 24


def print_plan(plan: "Plan") -> None:
    """Print what a run would need."""
    from rich.console import Console

    console = Console()
    forecast = plan.forecast
    console.print(f"\n[bold]{plan.config.run.name}[/bold]: {plan.config.model.model_name_or_path}")
    console.print(plan.report.describe(), highlight=False)
    console.print(_data_table(forecast))
    console.print(_memory_table(plan))
    _print_fit(plan, console)
    console.print(_disk_table(forecast))
    console.print(_variant_table(plan))
    if plan.devices:
        console.print(_device_table(plan))
    console.print(_trust(plan), style="dim", highlight=False)


def print_history(runs: "Sequence[PastRun]") -> None:
    """Print forecast and measurement of past runs, and the distribution of errors."""
    from rich.console import Console

    from loratory.plan.history import errors

    console = Console()
    table = _table("Forecast and measured", "run", "path", "peak", "measured", "error", "s/step", "measured", "error")
    for run in runs:
        planned, measured = run.record.predicted, run.record.measured
        assert measured is not None
        ratio = run.time_ratio
        table.add_row(
            run.name,
            run.record.path,
            size(planned.peak_bytes),
            size(measured.peak_bytes),
            f"{1 / run.memory_ratio - 1:+.1%}",
            _seconds(planned.step_seconds),
            _seconds(measured.step_seconds),
            "" if ratio is None else f"{1 / ratio - 1:+.1%}",
        )
    console.print(table)
    summary = _table("Errors", "of", "runs", "median", "90 %", "largest")
    times = [ratio for run in runs if (ratio := run.time_ratio) is not None]
    for name, ratios in (("peak memory", [run.memory_ratio for run in runs]), ("time of a step", times)):
        if ratios:
            summary.add_row(name, str(len(ratios)), *(f"{error:.1%}" for error in errors(ratios)))
    console.print(summary)
    exact = sum(run.is_exact for run in runs)
    console.print(f"trained numbers and files as forecast: {exact} of {len(runs)} runs", highlight=False)


def size(num_bytes: float) -> str:
    """Bytes for people."""
    if num_bytes >= _GIB:
        return f"{num_bytes / _GIB:.2f} GiB"
    return f"{num_bytes / _MIB:.1f} MiB" if num_bytes >= _MIB / 10 else f"{num_bytes / 1024:.1f} KiB"


def duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _data_table(forecast: "RunForecast") -> "Table":
    table = _table("Work", "", "an epoch", "the run")
    epochs = forecast.total_steps / forecast.steps_per_epoch
    table.add_row("optimizer steps", f"{forecast.steps_per_epoch:,}", f"{forecast.total_steps:,}")
    for name, count in (
        ("tokens of the rows", forecast.row_tokens),
        ("tokens computed, shared beginnings once", forecast.computed_tokens),
    ):
        table.add_row(name, f"{count:,}", f"{round(count * epochs):,}")
    flops = forecast.flops.total * forecast.steps_per_epoch
    table.add_row("floating-point operations", f"{flops:.3g}", f"{flops * epochs:.3g}")
    return table


def _memory_table(plan: "Plan") -> "Table":
    forecast = plan.forecast
    parts = {label: getattr(forecast.memory, name) for name, label in _PARTS.items()}
    largest = max(parts.values())
    table = _table("Memory at the peak, on this machine", "", "", "")
    for label, count in parts.items():
        if count:
            table.add_row(label, size(count), "█" * max(1, round(_BAR * count / largest)))
    if plan.correction.memory_runs:
        corrected = plan.peak_bytes - forecast.memory.total
        table.add_row(
            f"correction from {plan.correction.memory_runs} past runs", size(abs(corrected)), _sign(corrected)
        )
    table.add_section()
    table.add_row("[bold]peak[/bold]", f"[bold]{size(plan.peak_bytes)}[/bold]", f"{forecast.path} path")
    if forecast.path != "padded":
        own = forecast.memory.activations + forecast.memory.logits
        times = f"{forecast.padded_bytes / max(1, own):.1f} times ours"
        table.add_row("the same batch padded: activations, logits", size(forecast.padded_bytes), times)
    seconds = plan.step_seconds
    if seconds is not None:
        total = duration(seconds * forecast.total_steps)
        table.add_row("[bold]time[/bold]", f"[bold]{total}[/bold]", f"{duration(seconds)} a step")
    return table


def _print_fit(plan: "Plan", console: "Console") -> None:
    if plan.memory_bytes is None:
        return
    if plan.fits:
        left = plan.memory_bytes - plan.peak_bytes
        console.print(f"[green]fits[/green] into {size(plan.memory_bytes)}; {size(left)} to spare", highlight=False)
        return
    console.print(f"[red]does not fit[/red] into {size(plan.memory_bytes)}", highlight=False)
    if not plan.advice:
        console.print("no change of settings makes it fit; take a smaller model", highlight=False)
        return
    table = _table("It fits with", "add to the command", "peak", "cost")
    for advice in plan.advice:
        table.add_row(" ".join(advice.overrides), size(advice.peak_bytes), advice.cost)
    console.print(table)


def _disk_table(forecast: "RunForecast") -> "Table":
    disk = forecast.disk
    table = _table("Disk (safetensors; small JSON files besides)", "", "bytes", "")
    table.add_row("final model", f"{disk.final:,}", size(disk.final))
    exactness = size(disk.checkpoint) if disk.is_exact else f"about {size(disk.checkpoint)}"
    table.add_row("a checkpoint", f"{disk.checkpoint:,}", exactness)
    table.add_row("  of that, optimizer", f"{disk.optimizer:,}", size(disk.optimizer))
    return table


def _variant_table(plan: "Plan") -> "Table":
    table = _table("Side by side", "", "trained", "share", "peak", "path", "s/step", "final model")
    for variant in plan.variants:
        found = variant.forecast
        name = f"[bold]{variant.name} ←[/bold]" if variant.is_planned else variant.name
        if found is None:
            table.add_row(name, variant.refusal or "", *[""] * 5)
            continue
        table.add_row(
            name,
            f"{found.size.trained:,}",
            f"{found.size.adapter_share:.2%}",
            size(found.memory.total),
            found.path,
            _seconds(found.step_seconds),
            size(found.disk.final),
        )
    return table


def _device_table(plan: "Plan") -> "Table":
    table = _table(
        "On a GPU (from its data sheet; not measured)", "", "peak", "of", "", "s/step", "run", "figures from"
    )
    for each in plan.devices:
        need = each.forecast.memory.total
        fits = "[green]fits[/green]" if need <= each.device.memory_bytes * 0.95 else "[red]too large[/red]"
        seconds = each.forecast.step_seconds or 0.0
        table.add_row(
            each.device.name,
            size(need),
            f"{each.device.memory_gib} GiB",
            fits,
            _seconds(seconds),
            duration(seconds * each.forecast.total_steps),
            each.device.source,
        )
    return table


def _trust(plan: "Plan") -> str:
    runs = max(plan.correction.memory_runs, plan.correction.time_runs)
    if runs:
        return f"corrected by {runs} past runs of this machine and path; `loratory plan --history` shows their errors"
    return "not yet corrected by past runs: from three runs of this machine and path on, their errors are used"


def _table(title: str, *columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_header=any(columns))
    for index, column in enumerate(columns):
        is_number = index > 0 and column not in ("path", "cost", "figures from")
        table.add_column(column, justify="right" if is_number else "left")
    return table


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g}"


def _sign(value: float) -> str:
    return "more" if value > 0 else "less"
