"""A plan as tables of text: the command and the page draw the same ones."""

from loratory.engine.forecast.run_forecast import RunForecast
from loratory.plan.planning import Plan
from loratory.report.tables import Cell, Table, text_cells

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
_USUAL_RANKS = ((6.5e9, "8 to 16"), (14e9, "16 to 32"), (float("inf"), "32 to 64"))


def plan_tables(plan: Plan) -> tuple[Table, ...]:
    """Work, memory, ways to make it fit, disk, methods side by side, GPUs."""
    found = [_work_table(plan.forecast), _memory_table(plan)]
    if plan.advice:
        found.append(_advice_table(plan))
    found += [_disk_table(plan.forecast), _variant_table(plan)]
    if plan.devices:
        found.append(_device_table(plan))
    return tuple(found)


def fit_words(plan: Plan) -> str | None:
    """Whether it fits into the memory asked about; None when nobody asked."""
    if plan.memory_bytes is None:
        return None
    if plan.fits:
        return f"fits into {size(plan.memory_bytes)}; {size(plan.memory_bytes - plan.peak_bytes)} to spare"
    rest = "" if plan.advice else "; no change of settings makes it fit; take a smaller model"
    return f"does not fit into {size(plan.memory_bytes)}{rest}"


def notes_below(plan: Plan) -> tuple[str, ...]:
    """What stands below the tables: why a variant cannot be, where figures of GPUs are from, what all rests on."""
    refused = [f"{each.name}: {each.refusal}" for each in plan.variants if each.refusal]
    sources = dict.fromkeys(f"{each.device.name} from {each.device.source}" for each in plan.devices)
    runs = max(plan.correction.memory_runs, plan.correction.time_runs)
    trust = "not yet corrected by past runs: from three runs of this machine and path on, their errors are used"
    if runs:
        trust = f"corrected by {runs} past runs of this machine and path; `loratory plan --history` shows their errors"
    return (*refused, *([f"figures of {'; of '.join(sources)}"] if sources else []), trust)


def size(num_bytes: float) -> str:
    """Bytes for people."""
    for unit, name, decimals in ((_GIB, "GiB", 2), (_MIB, "MiB", 1)):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.{decimals if num_bytes < 100 * unit else 0}f} {name}"
    return f"{num_bytes / 1024:.1f} KiB"


def duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def seconds_text(seconds: float | None) -> str:
    """Seconds of a step; nothing for what is not known."""
    return "" if seconds is None else f"{seconds:.3g}"


def _work_table(forecast: RunForecast) -> Table:
    epochs = forecast.total_steps / forecast.steps_per_epoch
    rows = [_counts("optimizer steps", forecast.steps_per_epoch, forecast.total_steps)]
    for name, count in (
        ("tokens of the rows", forecast.row_tokens),
        ("tokens computed, shared beginnings once", forecast.computed_tokens),
    ):
        rows.append(_counts(name, count, round(count * epochs)))
    flops = forecast.flops.total * forecast.steps_per_epoch
    rows.append((Cell("floating-point operations"), _number(f"{flops:.3g}"), _number(f"{flops * epochs:.3g}")))
    return Table("Work", ("", "an epoch", "the run"), tuple(rows))


def _memory_table(plan: Plan) -> Table:
    forecast = plan.forecast
    parts = {label: getattr(forecast.memory, name) for name, label in _PARTS.items()}
    largest = max(parts.values())
    rows = [
        (Cell(label), _number(size(count)), Cell("█" * max(1, round(_BAR * count / largest))))
        for label, count in parts.items()
        if count
    ]
    if plan.correction.memory_runs:
        corrected = plan.peak_bytes - forecast.memory.total
        words = f"correction from {plan.correction.memory_runs} past runs"
        rows.append((Cell(words), _number(size(abs(corrected))), Cell("more" if corrected > 0 else "less")))
    rows.append((Cell("peak"), _number(size(plan.peak_bytes)), Cell(f"{forecast.path} path")))
    if forecast.path != "padded" and forecast.padded_bytes is not None:
        own = forecast.memory.activations + forecast.memory.logits
        times = f"{forecast.padded_bytes / max(1, own):.1f} times ours"
        name = "the same batch padded: activations, logits"
        rows.append((Cell(name), _number(size(forecast.padded_bytes)), Cell(times)))
    seconds = plan.step_seconds
    if seconds is not None:
        total = duration(seconds * forecast.total_steps)
        rows.append((Cell("time"), _number(total), Cell(f"{duration(seconds)} a step")))
    return Table("Memory at the peak, on this machine", ("", "", ""), tuple(rows))


def _advice_table(plan: Plan) -> Table:
    rows = ((Cell(" ".join(each.overrides)), _number(size(each.peak_bytes)), Cell(each.cost)) for each in plan.advice)
    return Table("It fits with", ("add to the command", "peak", "cost"), tuple(rows))


def _disk_table(forecast: RunForecast) -> Table:
    disk = forecast.disk
    exactness = size(disk.checkpoint) if disk.is_exact else f"about {size(disk.checkpoint)}"
    rows = (
        (Cell("final model"), _number(f"{disk.final:,}"), _number(size(disk.final))),
        (Cell("a checkpoint"), _number(f"{disk.checkpoint:,}"), _number(exactness)),
        (Cell("of that, optimizer"), _number(f"{disk.optimizer:,}"), _number(size(disk.optimizer))),
    )
    return Table("Disk (safetensors; small JSON files besides)", ("", "bytes", ""), rows)


def rank_words(plan: Plan) -> str | None:
    """The rank that is usual for a model of this size, where a rank is trained."""
    if plan.config.adapter.method != "lora":
        return None
    total = plan.forecast.size.total
    usual = next(words for bound, words in _USUAL_RANKS if total < bound)
    return f"rank {plan.config.adapter.rank}; usual for {_count(total)} numbers: {usual}"


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.0f} million"


def _short(number: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def _variant_table(plan: Plan) -> Table:
    rows = []
    full = next((each.forecast for each in plan.variants if each.name == "full"), None)
    for variant in plan.variants:
        found = variant.forecast
        name = f"{variant.name} ←" if variant.is_planned else variant.name
        if found is None:
            rows.append(text_cells(name, *["–"] * 7))
            continue
        rows.append(
            (
                Cell(name),
                _number(_short(found.size.trained)),
                _number(f"{found.size.adapter_share:.2%}"),
                _number(size(found.memory.total)),
                _number("" if full is None else f"{found.memory.total / full.memory.total:.0%}"),
                Cell(found.path),
                _number(seconds_text(found.step_seconds)),
                _number(size(found.disk.final)),
            )
        )
    header = ("", "trained", "share", "peak", "of full", "path", "s/step", "on disk")
    return Table("Side by side", header, tuple(rows))


def _device_table(plan: Plan) -> Table:
    rows = []
    for each in plan.devices:
        need = each.forecast.memory.total
        seconds = each.forecast.step_seconds or 0.0
        rows.append(
            (
                Cell(each.device.name),
                _number(size(need)),
                _number(f"{each.device.memory_gib} GiB"),
                Cell("fits" if need <= each.device.memory_bytes * 0.95 else "too large"),
                _number(seconds_text(seconds)),
                _number(duration(seconds * each.forecast.total_steps)),
            )
        )
    header = ("", "peak", "of", "verdict", "s/step", "run")
    return Table("On a GPU (from its data sheet; not measured)", header, tuple(rows))


def _counts(name: str, *counts: int) -> tuple[Cell, ...]:
    return (Cell(name), *(_number(f"{count:,}") for count in counts))


def _number(text: str) -> Cell:
    """A cell that stands to the right; these tables keep their order, so what it is sorted by does not matter."""
    return Cell(text, 0.0)
