"""The verbs about adapters: merge and show."""

from pathlib import Path
from typing import Annotated

import typer

from loratory.cli.arguments import ForceTemplate, RunFolder, TrustRemoteCode
from loratory.cli.console import note
from loratory.cli.finished_run import open_run
from loratory.errors import ConfigError, RunError


def merge(
    run: RunFolder,
    output: Annotated[Path, typer.Option(help="Folder of the merged model.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="auto (as the base), float32, float16 or bfloat16.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier merged model.")] = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Merge the run's adapter into its base; published only if it answers as the adapter does."""
    allowed = ("auto", "float32", "float16", "bfloat16")
    if dtype not in allowed:
        raise ConfigError(f"--dtype: got {dtype!r}; allowed: {', '.join(allowed)}")
    directory, config = open_run(run)
    if config.adapter.method == "full":
        raise RunError(f"{run}: trained in full, so {directory.final_model} is a whole model already; nothing to merge")
    from loratory.adapter.merge import merge_adapter

    certificate = merge_adapter(
        config.model,
        directory.final_model,
        output,
        dtype=dtype,  # type: ignore[arg-type]  # checked above
        overwrite=overwrite,
        force_template=force_template,
        trust_remote_code=trust_remote_code,
    )
    measured = certificate.measured
    typer.echo(f"merged model: {output} ({certificate.dtype})")
    typer.echo(
        f"certificate: over {measured.num_positions} positions max |logit difference| "
        f"{measured.max_logit_difference:.3g}, mean KL {measured.mean_kl_nats:.3g} nats, "
        f"same top token {measured.top1_agreement:.1%}"
    )
    for sentence in certificate.notes:
        note(sentence)


def show_adapter(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run directory or adapter folder.")],
) -> None:
    """Print what an adapter is: rank, targets, size, base."""
    from loratory.adapter import read_adapter

    folder = path / "final_model" if (path / "final_model").is_dir() else path
    files = read_adapter(folder)
    config = files.config
    targets = config.target_modules
    size = sum(tensor.numel() for tensor in files.tensors.values())
    facts = {
        "adapter": str(folder),
        "base": config.base_name or "not named",
        "base identity": files.manifest.base_identity if files.manifest else "unknown (no manifest)",
        "rank": config.rank,
        "alpha": f"{config.alpha:g}",
        "dropout": f"{config.dropout:g}",
        "rsLoRA": config.use_rslora,
        "DoRA": config.use_dora,
        "targets": targets if isinstance(targets, str) else ", ".join(targets),
        "modules to save": ", ".join(config.modules_to_save) or "none",
        "parameters": f"{size:,} in {len(files.tensors)} tensors",
    }
    for name, value in facts.items():
        typer.echo(f"{name:>16}: {value}")
    for warning in files.warnings:
        note(warning)
