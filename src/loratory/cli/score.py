"""The verb that scores a predictions file: exact matches, similarity, items, classes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.console import print_scores

if TYPE_CHECKING:
    from loratory.evaluation.answer_metrics.classes import ClassTable

MAX_CLASSES_SHOWN = 30


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS.jsonl", help="generated_predictions.jsonl.", show_default=False)
    ],
    metrics: Annotated[
        str | None, typer.Option(help="Metrics by name or id, separated by commas; default: those that fit the labels.")
    ] = None,
    class_by: Annotated[
        str | None, typer.Option(help="What makes a class of an answer, e.g. 'answer' or 'answer:prefix(_)'.")
    ] = None,
    long_answer_chars: Annotated[int, typer.Option(min=0, help="A label is long above this many characters.")] = 10,
    output: Annotated[Path | None, typer.Option(help="JSON file to write: scores, definitions, class table.")] = None,
) -> None:
    """Score a file of predictions: exact match, exact match of long answers, BLEU, ROUGE, and more."""
    from loratory.evaluation.predictions import file_scores_to_json, score_file
    from loratory.run import write_text

    found = score_file(
        predictions,
        long_answer_chars=long_answer_chars,
        metrics=None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()],
        class_by=class_by,
    )
    print_scores(found.scores)
    if found.classes is not None:
        _print_classes(found.classes)
    if output is not None:
        text = json.dumps(file_scores_to_json(predictions, found), indent=2, ensure_ascii=False) + "\n"
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
        typer.echo(f"scores: {output}")


def _print_classes(classes: "ClassTable") -> None:
    """The most frequent classes and what each is mostly taken for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "precision", "recall", "F1", "rows", "mostly taken for", title=f"by {classes.rule}")
    for row in classes.rows[:MAX_CLASSES_SHOWN]:
        wrong = {name: count for name, count in classes.confusion[row.name].items() if name != row.name}
        worst = max(wrong, key=lambda name: wrong[name]) if wrong else ""
        numbers = (f"{value:.1f}" for value in (row.precision, row.recall, row.f1))
        taken = f"{worst} ({wrong[worst]})" if wrong else ""
        table.add_row(Text(row.name), *numbers, str(row.support), Text(taken))
    console = Console()
    console.print(table)
    if len(classes.rows) > MAX_CLASSES_SHOWN:
        console.print(f"… and {len(classes.rows) - MAX_CLASSES_SHOWN} more classes; --output writes all of them")
