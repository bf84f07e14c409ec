"""The verb that measures a model: perplexity, zero-shot tasks, text metrics, speed and memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loratory.cli.answers import chosen_labels
from loratory.cli.arguments import ForceTemplate, Overrides, TrustRemoteCode
from loratory.cli.console import say
from loratory.cli.evaluation_table import print_results
from loratory.cli.finished_run import run_subject
from loratory.engine.finished_run import open_run
from loratory.engine.libraries import load_libraries
from loratory.errors import AdapterError

if TYPE_CHECKING:
    from loratory.config import RunConfig
    from loratory.evaluation.parts import RowSource
    from loratory.evaluation.subject import SubjectSource

RESULTS_NAME = "evaluation_results.json"
PREDICTIONS_NAME = "generated_predictions.jsonl"


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="A run, an adapter's folder, a model's folder, a .gguf file, a pruned_model.bin, or a hub name.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    metrics: Annotated[str, typer.Option(help="all, or some of ppl,zero_shot,text,speed,memory.")] = "all",
    output: Annotated[
        Path | None,
        typer.Option(help="Results file; default: RUN/evaluation/evaluation_results.json, else here."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Rows for text and ppl; default: data.test of a run.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model of an adapter, if not the one it names.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Text for ppl (again for several): wikitext2, ptb, NAME:FILE, or a file."),
    ] = None,
    window: Annotated[int | None, typer.Option(min=2, help="Tokens of a ppl window.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Tokens between windows.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Zero-shot tasks, with commas.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Worked examples before each question.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with local wikitext2/, ptb/ and zero_shot/ data.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many windows of a text, rows of a task or file.")
    ] = None,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure a model: perplexity, zero-shot accuracy, answers, speed, memory."""
    settings: dict[str, Any] = {
        "perplexity_texts": text or None,
        "perplexity_window": window,
        "perplexity_stride": stride,
        "zero_shot_tasks": None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()],
        "num_fewshot": num_fewshot,
        "data_dir": None if data_dir is None else str(data_dir),
        "limit": limit,
    }
    exit_code = evaluate_path(
        subject,
        overrides or (),
        metrics=metrics,
        output=output,
        data=data,
        base=base,
        settings={name: value for name, value in settings.items() if value is not None},
        force_template=force_template,
        trust_remote_code=trust_remote_code,
    )
    if exit_code:
        raise typer.Exit(exit_code)


def evaluate_path(
    subject: str,
    overrides: Sequence[str] = (),
    *,
    metrics: str = "all",
    output: Path | None = None,
    data: str | None = None,
    base: str | None = None,
    settings: dict[str, Any] | None = None,
    force_template: bool = False,
    trust_remote_code: bool = False,
) -> int:
    """Evaluate what lies at a path, write the results file and print the table.

    Args:
        subject: A run, an adapter's folder or a model.
        overrides: `section.key=value` assignments.
        metrics: Parts, with commas, or `all`.
        output: The results file.
        data: Rows for `text` and `ppl`.
        base: Base model of an adapter.
        settings: Fields of section `evaluation` that are stronger than the configuration.
        force_template: Go on with another template than that of training.
        trust_remote_code: Run code from the model's own repository.

    Returns:
        The exit code: 0 when all parts that were asked for are complete.

    Raises:
        LoratoryError: The subject cannot be opened, or a setting is wrong.
    """
    from dataclasses import replace

    from loratory.config import EvaluationConfig

    load_libraries()
    from loratory.evaluation.parts import Task
    from loratory.evaluation.subject import open_subject
    from loratory.evaluation.suite import part_names, run_suite

    parts = part_names(metrics)
    source, config = _locate(subject, base, overrides)
    file = output or (Path(subject) / "evaluation" if source.kind == "run" else Path()) / RESULTS_NAME
    section = EvaluationConfig.model_validate({**config.evaluation.model_dump(), **(settings or {})})
    rows = _rows(data or config.data.test, config)
    with _progress() as progress:
        task = Task(
            evaluation=section,
            predict=config.predict,
            rows=rows,
            seed=config.train.seed,
            predictions=file.parent / PREDICTIONS_NAME,
            progress=progress,
            labels=None if rows is None or "text" not in parts else chosen_labels(config.predict.labels, config),
        )
        opened = open_subject(
            replace(source, contract=None) if force_template else source, trust_remote_code=trust_remote_code
        )
        results = run_suite(opened, task, parts=parts, output=file)
    print_results(results)
    for name, part in results.parts.items():
        for fault in part.faults:
            say(f"error: {name}{f' {fault.on}' if fault.on else ''}", fault.reason, colour=typer.colors.RED)
    typer.echo(f"results ({results.status}): {file}")
    return results.exit_code


def _locate(subject: str, base: str | None, overrides: Sequence[str]) -> "tuple[SubjectSource, RunConfig]":
    """The subject and the configuration that holds for it."""
    from dataclasses import replace

    from loratory.config import build_config
    from loratory.evaluation.subject import locate_subject

    if (Path(subject) / "provenance.json").is_file():
        if base is not None:
            raise AdapterError(f"{subject}: a run knows its base; leave --base out, or evaluate RUN/final_model")
        directory, config = open_run(Path(subject), overrides)
        return run_subject(directory, config), config
    source = locate_subject(subject, base=base)
    values = {
        "model": {"model_name_or_path": source.base.model_name_or_path},
        "data": {"train": [], "template": source.template},
    }
    config = build_config(values, overrides)
    quantization = config.quantization if config.quantization.is_active else None
    return replace(source, base=config.model, template=config.data.template, quantization=quantization), config


def _rows(source: str | None, config: "RunConfig") -> "RowSource | None":
    from loratory.evaluation.parts import RowSource

    if source is None:
        return None
    form = config.data
    return RowSource(source, form.format, form.columns, form.system, form.max_bad_rows, form.dataset_dir)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """One bar on stderr that is reused by each step: label, done, total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("load", total=None)

        def show(label: str, done: int, total: int) -> None:
            nonlocal task
            if bar.tasks[0].description != label:
                bar.remove_task(task)
                task = bar.add_task(label, total=total)
            bar.update(task, completed=done, total=total)

        yield show
