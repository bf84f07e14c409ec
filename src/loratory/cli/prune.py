"""The verb that prunes a model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.prune.pruning import PruneReport, PruneSettings

DEFAULT_RATIO = 0.2


def prune(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hub name, folder, .gguf file or pruned_model.bin.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Folder; for pickle a file or folder.", show_default=False)],
    ratio: Annotated[
        float | None, typer.Option(help=f"Share of the prunable parameters to remove; default {DEFAULT_RATIO}.")
    ] = None,
    parameters: Annotated[int | None, typer.Option(help="Parameters of the whole model afterwards.")] = None,
    importance: Annotated[
        str | None,
        typer.Option(help="magnitude, taylor or random; taylor is the default with --calibration."),
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Text for taylor: a file, or wikitext2:FILE.")] = None,
    calibration_windows: Annotated[int, typer.Option(help="Windows of that text, evenly spread.")] = 32,
    layers: Annotated[
        str | None, typer.Option(metavar="A-B", help="Layers that may be pruned; default: as 4-29 of 32.")
    ] = None,
    is_global: Annotated[
        bool, typer.Option("--global/--uniform", help="Layers compete, or each gives up the same share.")
    ] = True,
    min_share: Annotated[float, typer.Option(help="Share of its heads and channels that a layer keeps.")] = 0.125,
    multiple_of: Annotated[int, typer.Option(help="Feed-forward widths stay multiples of this.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of --importance random.")] = 42,
    format: Annotated[str, typer.Option(help="uneven (a folder), or pickle (pruned_model.bin).")] = "uneven",
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer, when it is not the model's own.")] = None,
) -> None:
    """Remove the least important attention heads and feed-forward channels of a Llama-family model."""
    if format not in ("uneven", "pickle"):
        raise ConfigError(f"--format: got {format!r}; allowed: uneven, pickle")
    from loratory.prune.pruning import PruneSettings

    settings = PruneSettings(
        ratio=DEFAULT_RATIO if ratio is None and parameters is None else ratio,
        parameters=parameters,
        importance=importance or ("taylor" if calibration else "magnitude"),  # type: ignore[arg-type]  # checked there
        layers=_layers(layers),
        scope="global" if is_global else "uniform",
        min_share=min_share,
        channel_multiple=multiple_of,
        seed=seed,
    )
    _refuse_existing(output, format)
    report = _prune(model, tokenizer, settings, output, calibration, calibration_windows, format)
    typer.echo(f"pruned model: {output} ({settings.importance}, {settings.scope})")
    typer.echo(report.describe())
    groups = [shape.key_value_heads for shape in report.shapes_after]
    widths = [shape.ffn_width for shape in report.shapes_after]
    typer.echo(f"key-value heads per layer {min(groups)} to {max(groups)}, channels {min(widths)} to {max(widths)}")


def _prune(
    model: str,
    tokenizer: str | None,
    settings: "PruneSettings",
    output: Path,
    calibration: str | None,
    num_windows: int,
    format: str,
) -> "PruneReport":
    from loratory.config import ModelConfig

    load_libraries()
    from loratory.model import load_model
    from loratory.prune.calibration import calibration_windows
    from loratory.prune.pruning import prune_model
    from loratory.prune.saving import save_pruned

    loaded = load_model(
        ModelConfig(model_name_or_path=model, tokenizer_name_or_path=tokenizer, dtype="float32"), device="cpu"
    )
    windows = (
        calibration_windows(calibration, loaded.tokenizer, num_windows=num_windows)
        if calibration is not None and settings.importance == "taylor"
        else []
    )
    report = prune_model(loaded.model, settings, calibration=windows)
    record = {
        "base": loaded.source,
        "base_identity": loaded.identity,
        "calibration": calibration if windows else None,
        "calibration_windows": len(windows),
        **report.to_dict(),
    }
    save_pruned(
        loaded.model, loaded.tokenizer, output, record=json.dumps(record, indent=1), is_pickle=format == "pickle"
    )
    return report


def _layers(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not (first.isdigit() and dash and last.isdigit()):
        raise ConfigError(f"--layers: got {text!r}; expected first and last layer, such as 4-29, counted from 0")
    return int(first), int(last)


def _refuse_existing(output: Path, format: str) -> None:
    """Before the work rather than after it."""
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and format != "pickle"):
        raise ConfigError(f"--output: {output} exists already; choose another name or remove it first")
