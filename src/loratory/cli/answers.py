"""The verbs that let a finished run answer: predict and chat."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import Base, ForceTemplate, MaxNewTokens, RunFolder, TrustRemoteCode
from loratory.cli.console import note, print_scores, progress
from loratory.cli.finished_run import open_run, open_run_session, run_sampling
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.config import RunConfig


def predict(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="Rows to answer; default: data.test of the run.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default: RUN/predictions/DATA.")] = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per batch.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first n rows.")] = None,
    base: Base = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer the rows of a file and score the answers."""
    directory, config = open_run(run)
    source = data or config.data.test
    if source is None:
        raise ConfigError("data.test: the run names no test rows; give --data FILE")
    from loratory.data.reader import read_records
    from loratory.infer.predict import write_predictions

    section = config.data
    reading = read_records(
        source,
        format=section.format,
        columns=section.columns,
        system=section.system,
        max_bad_rows=section.max_bad_rows,
        limit=limit,
        require_answer=False,
        dataset_dir=section.dataset_dir,
    )
    records = reading.records
    if reading.report.dropped:
        note(f"{source}: rows left out: {', '.join(f'{n} ({why})' for why, n in reading.report.dropped.items())}")
    session = open_run_session(
        directory, config, base=base, force_template=force_template, trust_remote_code=trust_remote_code
    )
    with progress("predict", len(records)) as advance:
        predictions = session.predict(
            records,
            max_new_tokens=max_new_tokens or config.predict.max_new_tokens,
            batch_size=batch_size or config.predict.batch_size,
            sampling=run_sampling(config.predict, seed=config.train.seed),
            on_progress=advance,
        )
    folder = output or directory.predictions / f"{Path(source).stem}{'-base' if base else ''}"
    write_predictions(folder / "generated_predictions.jsonl", predictions)
    typer.echo(f"predictions: {folder / 'generated_predictions.jsonl'}")
    _score(folder, has_answers=all(record.answer is not None for record in records), config=config)


def chat(
    run: RunFolder,
    max_new_tokens: MaxNewTokens = None,
    system: Annotated[str | None, typer.Option(help="System prompt; default: data.system of the run.")] = None,
    base: Base = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to the trained model. /reset forgets, /base and /adapter switch, /exit leaves."""
    directory, config = open_run(run)
    session = open_run_session(
        directory, config, base=base, force_template=force_template, trust_remote_code=trust_remote_code
    )
    from loratory.infer.chat import Chat

    talk = Chat(
        session,
        system=system if system is not None else config.data.system,
        max_new_tokens=max_new_tokens or config.predict.max_new_tokens,
        sampling=run_sampling(config.predict, seed=config.train.seed),
    )
    for line in _lines_of_user():
        if line == "/exit":
            break
        if line == "/reset":
            talk.reset()
        elif line in {"/base", "/adapter"}:
            talk.use_adapter = line == "/adapter"
        else:
            talk.say(line, on_text=lambda piece: typer.echo(piece, nl=False))
            typer.echo()


def _score(folder: Path, *, has_answers: bool, config: "RunConfig") -> None:
    """Score a predictions file, write the scores beside it and print them."""
    if not has_answers:
        note("some rows have no answer to compare with, so nothing was scored")
        return
    from loratory.evaluation.predictions import score_file, write_scores

    scores = score_file(folder / "generated_predictions.jsonl", long_answer_chars=config.evaluation.long_answer_chars)
    write_scores(folder / "text_metrics.json", scores)
    print_scores(scores)


def _lines_of_user() -> Iterator[str]:
    """What the user types, line by line, until the end of input; empty lines are passed over."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            typer.echo("> ", nl=False)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
