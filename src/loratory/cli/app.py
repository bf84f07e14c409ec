"""The tree of verbs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from loratory import __version__
from loratory.cli.adapter import check_adapter, convert, diff, merge, save_adapter_as, show_adapter, validate
from loratory.cli.answers import predict
from loratory.cli.chat import chat, compare_chat
from loratory.cli.compare import compare
from loratory.cli.data import check, preview, stats, subset
from loratory.cli.evaluate import evaluate
from loratory.cli.export import card, gguf, hub, ollama, vllm
from loratory.cli.failure import failures_as_exit_codes
from loratory.cli.importing import import_run
from loratory.cli.model import load, save, show
from loratory.cli.plan import plan
from loratory.cli.prune import prune
from loratory.cli.report import report
from loratory.cli.score import score
from loratory.cli.serve import serve
from loratory.cli.sft import CONTEXT as SFT_CONTEXT
from loratory.cli.sft import sft
from loratory.cli.sweep import make_sweep_app
from loratory.cli.training import show_config, show_schema, train
from loratory.cli.ui import ui


class _Verbs(typer.core.TyperGroup):
    """Turns loratory's errors into one message and their exit code, whatever the verb."""

    def invoke(self, ctx: Any) -> Any:
        with failures_as_exit_codes():
            return super().invoke(ctx)


def make_app() -> typer.Typer:
    """Return the command line application."""
    app = typer.Typer(
        cls=_Verbs,
        name="loratory",
        help="A laboratory for fine-tuning language models on small hardware.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Plain help: rich markup would load its Markdown and highlighting parts and double the time of an answer.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in (train, plan, prune, predict, score, evaluate, chat, serve, demo, compare, report, ui):
        app.command()(verb)
    app.command("compare-chat")(compare_chat)
    app.command("import")(import_run)
    app.command("sft", context_settings=SFT_CONTEXT)(sft)
    app.add_typer(make_sweep_app(), name="sweep")
    app.add_typer(_group("Show the configuration and its schema.", show=show_config, schema=show_schema), name="config")
    app.add_typer(
        _group("Look at rows before training.", check=check, subset=subset, stats=stats, preview=preview), name="data"
    )
    app.add_typer(
        _group(
            "Look into adapters, compare, save and merge them.",
            show=show_adapter,
            check=check_adapter,
            save=save_adapter_as,
            merge=merge,
            diff=diff,
            convert=convert,
            validate=validate,
        ),
        name="adapter",
    )
    app.add_typer(_group("Open base models, save them in another form.", load=load, save=save, show=show), name="model")
    app.add_typer(
        _group("Hand a trained model to other programs.", gguf=gguf, ollama=ollama, vllm=vllm, card=card, hub=hub),
        name="export",
    )
    return app


def _group(help_text: str, **verbs: Callable[..., None]) -> typer.Typer:
    group = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    for name, verb in verbs.items():
        group.command(name)(verb)
    return group


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"loratory {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def demo(
    workdir: Annotated[Path, typer.Option(help="Where data, model and results go.")] = Path("outputs/demo"),
) -> None:
    """Fine-tune, score and merge a small model on generated telecom questions."""
    from loratory.demo.demo import run_demo

    run_demo(workdir=workdir)
