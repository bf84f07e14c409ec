"""The verbs about base models: load, save and show."""

from pathlib import Path
from typing import Annotated

import typer

from loratory.errors import ConfigError

Source = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub name, folder, .gguf file or pruned_model.bin.", show_default=False)
]
Tokenizer = Annotated[str | None, typer.Option(help="Tokenizer, when it is not the model's own.", show_default=False)]


def load(model: Source, tokenizer: Tokenizer = None) -> None:
    """Load a model with its tokenizer, let it compute once, and print what it is."""
    import torch

    from loratory.config import ModelConfig
    from loratory.errors import NumericsError
    from loratory.model import load_model

    loaded = load_model(ModelConfig(model_name_or_path=model, tokenizer_name_or_path=tokenizer))
    ids = loaded.tokenizer("The quick brown fox jumps over the lazy dog.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = loaded.model(ids.to(loaded.model.device)).logits.float()
    if not torch.isfinite(logits).all():
        raise NumericsError(f"{model}: its logits on a plain sentence are not finite")
    loss_nats = float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:].to(logits.device)))
    _print_facts(
        {
            "model": loaded.source,
            "class": type(loaded.model).__name__,
            "identity": loaded.identity,
            "parameters": f"{loaded.model.num_parameters():,}",
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "tokenizer": f"{len(loaded.tokenizer):,} tokens",
            "a sentence": f"{loss_nats:.3f} nats per token over {ids.shape[1] - 1} tokens",
        }
    )


def show(model: Source) -> None:
    """Print a model's widths layer by layer, its parameters and size; no weights are loaded."""
    from loratory.config import ModelConfig
    from loratory.model.facts import describe_model

    facts = describe_model(ModelConfig(model_name_or_path=model))
    shapes = facts.shapes
    rows = {
        "model": facts.source,
        "class": facts.architecture,
        "parameters": f"{facts.parameters:,}",
        "dtype": facts.dtype or "not said",
        "size": f"{facts.size_bytes / 2**20:,.1f} MiB" if facts.size_bytes else "not on this disk",
    }
    if shapes is not None:
        rows |= {
            "hidden size": f"{shapes.hidden_size}",
            "head width": f"{shapes.head_dim}",
            "vocabulary": f"{shapes.vocab_size:,}",
            "layers": f"{len(shapes.layers)}, {'all alike' if shapes.is_uniform else 'of different widths'}",
        }
    _print_facts(rows)
    if shapes is None:
        return
    typer.echo(f"{'layer':>7}{'was':>6}{'query heads':>13}{'kv heads':>10}{'ffn width':>11}")
    for index, (kept, layer) in enumerate(zip(shapes.layers_kept, shapes.layers, strict=True)):
        typer.echo(f"{index:>7}{kept:>6}{layer.query_heads:>13}{layer.key_value_heads:>10}{layer.ffn_width:>11}")


def save(
    model: Source,
    output: Annotated[Path, typer.Option(help="Folder; for pickle a file or folder.", show_default=False)],
    format: Annotated[str, typer.Option(help="uneven, padded (a stock folder for any tool) or pickle.")] = "uneven",
    dtype: Annotated[str, typer.Option(help="auto (as in the files), float32, float16 or bfloat16.")] = "auto",
    tokenizer: Tokenizer = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="pickle: replace an existing file.")] = False,
) -> None:
    """Write a model in another form: uneven folder, padded stock folder, or pruned_model.bin."""
    faults = [
        f"{name}: got {value!r}; allowed: {', '.join(allowed)}"
        for name, value, allowed in (
            ("--format", format, ("uneven", "padded", "pickle")),
            ("--dtype", dtype, ("auto", "float32", "float16", "bfloat16")),
        )
        if value not in allowed
    ]
    if faults:
        raise ConfigError(faults)
    from loratory.config import ModelConfig
    from loratory.model.save import save_model_as

    saved = save_model_as(
        ModelConfig(model_name_or_path=model, tokenizer_name_or_path=tokenizer),
        output,
        format=format,  # type: ignore[arg-type]  # checked above
        dtype=dtype,  # type: ignore[arg-type]  # checked above
        overwrite=overwrite,
    )
    typer.echo(f"{format} model: {saved.path}, {saved.parameters:,} parameters (read: {saved.parameters_before:,})")
    if saved.logit_difference is not None:
        typer.echo(f"largest difference of logits to the model read: {saved.logit_difference:.3g} (float32)")


def _print_facts(facts: dict[str, str]) -> None:
    for name, value in facts.items():
        typer.echo(f"{name:>12}: {value}")
