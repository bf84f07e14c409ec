"""The verb that lets a finished run answer rows: predict."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import Base, ForceTemplate, MaxNewTokens, RunFolder, TrustRemoteCode
from loratory.cli.console import note, print_scores, progress
from loratory.engine.finished_run import check_answers, open_run, open_run_session, run_sampling
from loratory.engine.libraries import load_libraries
from loratory.errors import ConfigError

if TYPE_CHECKING:
    from loratory.config import RunConfig
    from loratory.data.records import Record


def predict(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="Rows to answer; default: data.test of the run.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default: RUN/predictions/DATA.")] = None,
    max_new_tokens: MaxNewTokens = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per batch.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first n rows.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Choose among labels: auto, none or a file; default: predict.labels of the run.")
    ] = None,
    label_scores: Annotated[
        bool, typer.Option("--label-scores", help="Write every label's log-probability beside the answer.")
    ] = False,
    base: Base = False,
    force_template: ForceTemplate = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Answer the rows of a file and score the answers."""
    directory, config = open_run(run)
    check_answers(directory, config)
    source = data or config.data.test
    if source is None:
        raise ConfigError("data.test: the run names no test rows; give --data FILE")
    load_libraries()
    from loratory.compare.test_set import write_test_set
    from loratory.infer.predict import write_predictions

    records = _read_rows(source, config, limit=limit, require_answer=False)
    has_classes = config.objective.name == "classification"
    chosen = None if has_classes else chosen_labels(labels or config.predict.labels, config)
    session = open_run_session(
        directory, config, base=base, force_template=force_template, trust_remote_code=trust_remote_code
    )
    with progress("predict", len(records)) as advance:
        if chosen is None:
            predictions = session.predict(
                records,
                max_new_tokens=max_new_tokens or config.predict.max_new_tokens,
                batch_size=batch_size or config.predict.batch_size,
                sampling=run_sampling(config.predict, seed=config.train.seed),
                on_progress=advance,
            )
        else:
            predictions = session.predict_labels(
                records,
                chosen,
                batch_size=batch_size or config.predict.batch_size,
                with_logprobs=label_scores,
                on_progress=advance,
            )
    folder = output or directory.predictions / f"{Path(source).stem}{'-base' if base else ''}"
    write_predictions(folder / "generated_predictions.jsonl", predictions)
    write_test_set(folder, source, records)
    typer.echo(f"predictions: {folder / 'generated_predictions.jsonl'}")
    _score(folder, num_without=sum(record.expected is None for record in records), config=config)


def _read_rows(
    source: str, config: "RunConfig", *, limit: int | None = None, require_answer: bool
) -> tuple["Record", ...]:
    """Rows of a file as the run reads its own."""
    from loratory.data.reader import read_section_rows

    reading = read_section_rows(source, config.data, limit=limit, require_answer=require_answer)
    if reading.report.dropped:
        note(f"{source}: rows left out: {', '.join(f'{n} ({why})' for why, n in reading.report.dropped.items())}")
    return reading.records


def chosen_labels(choice: str, config: "RunConfig") -> tuple[str, ...] | None:
    """The closed set to choose from, or None to generate."""
    if choice == "none":
        return None
    from loratory.infer.label_set import AUTO_RULE, closed_labels, read_labels

    if choice != "auto":
        return read_labels(Path(choice))
    sources = [config.data.train] if isinstance(config.data.train, str) else config.data.train
    rows = [record for source in sources for record in _read_rows(source, config, require_answer=True)]
    found = closed_labels(record.answer for record in rows)
    if found is None:
        note(f"predict.labels: the training rows' answers are no closed set ({AUTO_RULE}), so answers are generated")
    else:
        note(f"predict.labels: answers are chosen among the {len(found)} of the training rows")
    return found


def _score(folder: Path, *, num_without: int, config: "RunConfig") -> None:
    """Score a predictions file, write the scores beside it and print them."""
    if num_without:
        note(f"rows without an answer, or with one that was judged bad: {num_without}; so nothing was scored")
        return
    from loratory.evaluation.predictions import score_file, write_scores

    found = score_file(folder / "generated_predictions.jsonl", long_answer_chars=config.evaluation.long_answer_chars)
    write_scores(folder / "text_metrics.json", found.scores)
    print_scores(found.scores)
