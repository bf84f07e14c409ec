"""The verbs about adapters: show, check, save, merge, diff, convert, and validate for what a merge left."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loratory.cli.adapter_tables import print_card, print_certificate, print_difference, print_findings
from loratory.cli.arguments import ForceTemplate, TrustRemoteCode
from loratory.engine.finished_run import open_run
from loratory.engine.libraries import load_libraries
from loratory.errors import AdapterError, ConfigError, IntegrityError, RunError

if TYPE_CHECKING:
    from loratory.adapter.merge import QuantisedTraining
    from loratory.config import ModelConfig

DTYPES = ("auto", "float32", "float16", "bfloat16")
QUANTISED_BASES = ("auto", "original", "dequantised")
AdapterPath = Annotated[Path, typer.Argument(metavar="PATH", help="A run, checkpoint or adapter folder.")]
NewFolder = Annotated[Path, typer.Option(help="The new folder.", show_default=False)]
BaseModel = Annotated[str | None, typer.Option("--base", help="The base model: folder, file or hub name.")]


def merge(
    path: Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run, or an adapter folder with --base.")],
    output: Annotated[Path, typer.Option(help="Folder of the merged model.", show_default=False)],
    base: BaseModel = None,
    dtype: Annotated[str, typer.Option(help="auto (as the base), float32, float16 or bfloat16.")] = "auto",
    also: Annotated[
        list[str] | None, typer.Option(metavar="ADAPTER=WEIGHT", help="Combine with a further adapter.")
    ] = None,
    weight: Annotated[float, typer.Option(help="Weight of the first adapter in a combination.")] = 1.0,
    combine: Annotated[str, typer.Option(help="svd, cat, linear, ties, dare_linear, dare_ties, …")] = "svd",
    density: Annotated[float, typer.Option(help="Share that ties and dare keep.")] = 0.5,
    quantised_base: Annotated[
        str, typer.Option(help="QLoRA: merge into the original, the dequantised, or (auto) the nearer base.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier merged model.")] = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Merge an adapter into its base; published only if it answers as the adapter does."""
    for flag, value, allowed in (("dtype", dtype, DTYPES), ("quantised-base", quantised_base, QUANTISED_BASES)):
        if value not in allowed:
            raise ConfigError(f"--{flag}: got {value!r}; allowed: {', '.join(allowed)}")
    section, adapter, training = _base_and_adapter(path, base, quantised_base)
    from loratory.adapter.merge import merge_adapter

    options: dict[str, Any] = {
        "dtype": dtype,
        "overwrite": overwrite,
        "force_template": force_template,
        "trust_remote_code": trust_remote_code,
        "quantised": training,
    }
    if not also:
        certificate = merge_adapter(section, adapter, output, **options)
    else:
        from loratory.adapter.combine import Share, combine_adapters
        from loratory.run.termination import unwound_by_signals

        shares = [Share(adapter, weight), *(Share(*_weighted(one)) for one in also)]
        sparse = combine.startswith(("ties", "dare", "magnitude"))
        with unwound_by_signals(), tempfile.TemporaryDirectory() as name:
            combined = combine_adapters(
                section, shares, Path(name), combination=combine, density=density if sparse else None
            )
            certificate = merge_adapter(section, Path(name), output, combined=combined, **options)
    typer.echo(f"merged model: {output} ({certificate.dtype})")
    print_certificate(certificate)


def show_adapter(path: AdapterPath) -> None:
    """Print what an adapter is: rank, targets, size, base."""
    from loratory.adapter import read_adapter
    from loratory.adapter.extraction import find_adapter

    print_card(read_adapter(find_adapter(path)))


def check_adapter(path: AdapterPath, base: BaseModel = None) -> None:
    """Is the adapter sound, and made for the base? Exit code 4 when it is broken."""
    from loratory.adapter.extraction import find_adapter
    from loratory.adapter.verdict import examine_adapter
    from loratory.config import ModelConfig

    folder = find_adapter(path) if path.is_dir() else path
    section = ModelConfig(model_name_or_path=base) if base is not None else None
    found = examine_adapter(folder, section)
    print_findings(found.findings, title=str(folder))
    if found.card is not None:
        _print_layers(found)
    if found.findings.verdict == "broken":
        raise IntegrityError(f"{folder} is broken; do not use it")


def save_adapter_as(path: AdapterPath, output: NewFolder) -> None:
    """Copy the adapter of a run or checkpoint to a folder of its own."""
    from loratory.adapter.extraction import save_as

    files = save_as(path, output)
    typer.echo(f"adapter: {output} ({len(files.tensors)} tensors)")


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run, checkpoint or adapter folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Compare two adapters: configuration and each layer's update."""
    from loratory.adapter.difference import compare_adapters
    from loratory.adapter.extraction import find_adapter

    print_difference(compare_adapters(find_adapter(first), find_adapter(second)))


def convert(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder with adapter_model.bin.")], output: NewFolder
) -> None:
    """Write pickled adapter weights as safetensors, without running what is in the pickle."""
    from loratory.adapter.convert import convert_adapter

    typer.echo(f"adapter: {output} ({convert_adapter(path, output)} tensors)")


def validate(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="A merged model's folder.")],
    base: BaseModel = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Is a merged model sound, and does it generate? Exit code 4 when it is broken."""
    from loratory.adapter.validation import validate_model

    found = validate_model(path, base, trust_remote_code=trust_remote_code)
    print_findings(found.findings, title=str(path))
    if found.findings.verdict == "broken":
        raise IntegrityError(f"{path} is broken; do not use it")


def _base_and_adapter(
    path: Path, base: str | None, quantised_base: str
) -> tuple["ModelConfig", Path, "QuantisedTraining"]:
    """The base's section, the adapter's folder, and how its base was quantised."""
    from loratory.config import ModelConfig

    if not path.is_dir():
        raise RunError(f"{path}: no such run or adapter folder")
    load_libraries()
    from loratory.adapter.extraction import find_adapter
    from loratory.adapter.merge import QuantisedTraining

    if (path / "config.yaml").is_file():
        directory, config = open_run(path)
        if config.adapter.method == "full":
            raise RunError(
                f"{path}: trained in full, so {directory.final_model} is a whole model already; nothing to merge"
            )
        section = config.model if base is None else config.model.model_copy(update={"model_name_or_path": base})
        quantization = config.quantization if config.quantization.is_active else None
        return section, directory.final_model, QuantisedTraining(quantised_base, quantization)  # type: ignore[arg-type]
    folder = find_adapter(path)
    if base is None:
        raise AdapterError(f"{path} is an adapter and no run: name its base with --base")
    return ModelConfig(model_name_or_path=base), folder, QuantisedTraining(quantised_base)  # type: ignore[arg-type]


def _weighted(text: str) -> tuple[Path, float]:
    from loratory.adapter.extraction import find_adapter

    name, separator, number = text.rpartition("=")
    try:
        return find_adapter(Path(name if separator else text)), float(number) if separator else 1.0
    except ValueError as fault:
        raise ConfigError(f"--also: got {text!r}; a folder and a number are needed, like runs/b=0.5") from fault


def _print_layers(found: Any) -> None:
    from loratory.cli.adapter_tables import print_layers

    print_layers(found.card, found.shares)
