"""How the verbs about adapters print what they found."""

from typing import TYPE_CHECKING

import typer

from loratory.cli.console import note

if TYPE_CHECKING:
    from loratory.adapter.certificate import Certificate
    from loratory.adapter.difference import AdapterDifference
    from loratory.adapter.files import AdapterFiles
    from loratory.adapter.findings import Findings
    from loratory.adapter.inspect import AdapterCard

MARKS = {"fine": "ok", "doubt": "??", "fault": "XX"}
COLOURS = {"sound": typer.colors.GREEN, "doubtful": typer.colors.YELLOW, "broken": typer.colors.RED}
MAX_ROWS = 20


def print_findings(findings: "Findings", *, title: str) -> None:
    """One line per finding, then the verdict."""
    for finding in findings.items:
        lines = finding.text.splitlines() or [""]
        typer.echo(f"{MARKS[finding.weight]} {finding.topic:>12}: {lines[0]}")
        for line in lines[1:]:
            typer.echo(f"{'':>16} {line}")
    verdict = typer.style(findings.verdict, fg=COLOURS[findings.verdict], bold=True)
    typer.echo(f"verdict: {title} is {verdict}")


def print_layers(card: "AdapterCard", shares: dict[str, float]) -> None:
    """The update of each layer: by leaf name, since a model has many layers."""
    if not card.layers:
        return
    leaves: dict[str, list[tuple[int, float, float, float | None]]] = {}
    for layer in card.layers:
        share = shares.get(f"{layer.module}.weight")
        row = (layer.rank, layer.scale, layer.norm, share)
        leaves.setdefault(layer.module.rsplit(".", 1)[-1], []).append(row)
    typer.echo(f"{'layers':>24} {'count':>6} {'rank':>6} {'scale':>7} {'norm of s B A':>21} {'of the weight':>16}")
    for leaf, rows in sorted(leaves.items()):
        norms = [norm for _, _, norm, _ in rows]
        parts = [share for _, _, _, share in rows if share is not None]
        size = f"{min(parts):.2%} to {max(parts):.2%}" if parts else "-"
        ranks, scales = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
        typer.echo(
            f"{leaf:>24} {len(rows):>6} {_span(ranks):>6} {_span(scales):>7} "
            f"{f'{min(norms):.3g} to {max(norms):.3g}':>21} {size:>16}"
        )


def print_certificate(certificate: "Certificate") -> None:
    """What the certificate says in a sentence, its notes after it."""
    measured, effect = certificate.measured, certificate.effect
    change = measured.perplexity_change
    typer.echo(
        f"certificate: over {measured.num_positions} positions max |logit difference| "
        f"{measured.max_logit_difference:.3g}, mean KL {measured.mean_kl_nats:.3g} nats, "
        f"same top token {measured.top1_agreement:.1%}" + ("" if change is None else f", perplexity {change:+.3%}")
    )
    typer.echo(f"the adapter itself moves the base by mean KL {effect.mean_kl_nats:.3g} nats")
    losses = certificate.rounding_loss
    if losses:
        worst = max(losses, key=lambda name: losses[name])
        typer.echo(f"rounding lost at most {losses[worst]:.2%} of an update ({worst}), {certificate.method}")
    for sentence in certificate.notes:
        note(sentence)


def print_card(files: "AdapterFiles") -> None:
    """What an adapter is, in labelled lines."""
    config = files.config
    targets = config.target_modules
    size = sum(tensor.numel() for tensor in files.tensors.values())
    facts = {
        "adapter": str(files.path),
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


def print_difference(found: "AdapterDifference") -> None:
    """Keys that differ, then the layers that differ most."""
    if found.is_same:
        typer.echo("the adapters compute the same")
    if found.same_base is False:
        note("they were trained on different bases")
    for key, (first, second) in found.config.items():
        typer.echo(f"{key:>24}: {first!r} | {second!r}")
    for words, names in (("only in the first", found.only_first), ("only in the second", found.only_second)):
        if names:
            typer.echo(f"{words}: {len(names)} (first: {names[0]})")
    changed = [weight for weight in found.weights if weight.relative]
    if changed:
        typer.echo(f"updates: {len(changed)} of {len(found.weights)} differ; ||B - A|| / ||A|| and cosine:")
        for weight in changed[:MAX_ROWS]:
            typer.echo(f"  {weight.relative:>10.3%} {weight.cosine:>8.4f}  {weight.name}")
        if len(changed) > MAX_ROWS:
            typer.echo(f"  … and {len(changed) - MAX_ROWS} more, each at most {changed[MAX_ROWS].relative:.3%}")


def _span(values: "list[int] | list[float]") -> str:
    return f"{values[0]:g}" if values[0] == values[-1] else f"{values[0]:g}-{values[-1]:g}"
