"""The verbs that look at rows before anything is trained: check, subset, stats, preview."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loratory.cli.arguments import TrustRemoteCode
from loratory.cli.console import note, running_count
from loratory.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from loratory.config import DataConfig, RunConfig
    from loratory.data.health.tokens import TokenReport
    from loratory.data.record_stream import RecordStream
    from loratory.data.templates import BoundTemplate
    from loratory.data.time_estimate import TimeEstimate

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE]...", help="Files of rows; default: data.train of --config.", show_default=False),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A run file: its columns, template, cut-off.")]
NeededConfig = Annotated[Path, typer.Option("--config", help="The run file.", show_default=False)]
Format = Annotated[str | None, typer.Option("--format", help="auto, alpaca, prompt_completion or chat.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="A column of another name, e.g. output=category; repeatable."),
]
BadRows = Annotated[int | None, typer.Option("--max-bad-rows", min=0, help="Bad rows left out before an error.")]


def check(
    files: Files = None,
    test: Annotated[list[str] | None, typer.Option(help="Test rows that must not be among them; repeatable.")] = None,
    config: ConfigFile = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer to count tokens with, if no --config.")] = None,
    template: Annotated[str | None, typer.Option(help="Template to count tokens under; default: auto.")] = None,
    cutoff_len: Annotated[int | None, typer.Option(min=8, help="Longest sequence in tokens.")] = None,
    row_format: Format = None,
    column: Columns = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here as JSON.")] = None,
    near: Annotated[bool, typer.Option(help="Look for near-duplicates.")] = True,
    max_bad_rows: Annotated[float, typer.Option(min=0, help="Rows the reader refuses.")] = 0,
    max_duplicates: Annotated[float, typer.Option(min=0, help="Rows that repeat another.")] = 0.05,
    max_near_duplicates: Annotated[float, typer.Option(min=0, help="Rows that resemble another.")] = math.inf,
    max_conflicts: Annotated[float, typer.Option(min=0, help="Rows with one prompt, several answers.")] = 0.05,
    max_markers: Annotated[float, typer.Option(min=0, help="Rows with control markers.")] = 0,
    max_leakage: Annotated[float, typer.Option(min=0, help="Test rows among the rows.")] = 0,
    max_near_leakage: Annotated[float, typer.Option(min=0, help="Test rows that resemble a row.")] = math.inf,
    max_truncated: Annotated[float | None, typer.Option(min=0, help="Rows longer than the cut-off.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Look for what would spoil a training: bad rows, duplicates, conflicts, leaked test rows, cut answers.

    Limits: below 1 a share of the rows, else a number of rows, inf for any. Above one, the exit code is 2.
    """
    settings = _read(config) if config is not None else None
    section = settings.data if settings is not None else None
    streams = _streams(files, section, row_format, column)
    test_streams = _streams(test or ([section.test] if section and section.test else []), section, row_format, column)
    from loratory.cli.data_tables import show_health
    from loratory.data.health.doctor import Doctor, check_streams
    from loratory.data.health.report import Limits
    from loratory.data.row_file import value_text
    from loratory.run.commit import write_text

    bound = None
    tokens: tuple[str, ...] = ()
    if settings is not None or tokenizer is not None:
        loaded, bound = _bind(settings, tokenizer, template, trust_remote_code=trust_remote_code)
        tokens = tuple(str(token) for token in loaded.all_special_tokens)
    elif template is not None or cutoff_len is not None:
        raise ConfigError("--template and --cutoff-len need a tokenizer: give --tokenizer MODEL or --config RUN.yaml")
    if max_truncated is None:
        max_truncated = 0 if section is None or section.truncation == "error" else math.inf
    limits = Limits(
        bad_rows=_limit(max_bad_rows),
        duplicates=_limit(max_duplicates),
        near_duplicates=_limit(max_near_duplicates),
        conflicts=_limit(max_conflicts),
        markers=_limit(max_markers),
        leakage=_limit(max_leakage),
        near_leakage=_limit(max_near_leakage),
        truncated=_limit(max_truncated),
    )
    doctor = Doctor(
        limits,
        near=near,
        special_tokens=tokens,
        template=bound,
        cutoff_len=cutoff_len or (section.cutoff_len if section is not None else 1024),
    )
    with running_count("rows") as advance:
        report = check_streams(doctor, streams, test_streams, on_progress=advance)
    show_health(report)
    if json_file is not None:
        write_text(json_file, value_text(report.as_dict()) + "\n")
        typer.echo(f"report: {json_file}")
    if report.faults:
        raise DataError("\n".join(report.faults))


def subset(
    files: Files = None,
    by: Annotated[str, typer.Option(help="Field or expression, e.g. output:prefix(_).", show_default=False)] = "",
    size: Annotated[list[int] | None, typer.Option(min=1, help="Rows of a training set; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the sets and manifest.json.")] = None,
    test_size: Annotated[int, typer.Option(min=0, help="Rows of a test set without a prompt in common.")] = 0,
    config: ConfigFile = None,
    row_format: Format = None,
    column: Columns = None,
    max_bad_rows: BadRows = None,
) -> None:
    """Cut smaller sets in which each class keeps its share; the small ones lie within the large ones."""
    if not by or output is None or not (size or test_size):
        raise ConfigError("subset needs --by FIELD, --output FOLDER, and --size N or --test-size N")
    section = _read(config).data if config is not None else None
    streams = _streams(files, section, row_format, column, require_answer=False)
    from loratory.cli.data_tables import show_subsets
    from loratory.data.strata import parse_stratum
    from loratory.data.subset import write_subsets

    allowed = max_bad_rows if max_bad_rows is not None else (section.max_bad_rows if section is not None else 0)
    result = write_subsets(
        streams, parse_stratum(by), size or (), output=output, test_size=test_size, max_bad_rows=allowed
    )
    show_subsets(result)


def stats(
    config: NeededConfig,
    files: Files = None,
    run: Annotated[Path | None, typer.Option(help="A former run, whose measured speed estimates the time.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Count what the rows become: tokens, trained tokens, rows over the cut-off, time to train."""
    settings = _read(config)
    streams = _streams(files, settings.data, None, None)
    _, bound = _bind(settings, None, None, trust_remote_code=trust_remote_code)
    from loratory.cli.data_tables import show_tokens
    from loratory.data.faults import FaultLog, RowFault
    from loratory.data.health.tokens import TokenProfile

    profile, faults, done = TokenProfile(bound, settings.data.cutoff_len), FaultLog(), 0
    with running_count("rows") as advance:
        for stream in streams:
            for origin, _, record in stream:
                done += 1
                if isinstance(record, RowFault):
                    faults.add(origin, record)
                else:
                    profile.add(record)
                if done % 1000 == 0:
                    advance(done)
    faults.raise_above(settings.data.max_bad_rows, rows_read=done)
    report = profile.result()
    show_tokens(report, _estimate(report, settings, run), settings.train.num_epochs)


def preview(
    config: NeededConfig,
    files: Files = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what rows become: token by token, trained or masked."""
    from itertools import islice

    settings = _read(config)
    streams = _streams(files, settings.data, None, None)
    loaded, bound = _bind(settings, None, None, trust_remote_code=trust_remote_code)
    from loratory.cli.data_tables import show_example
    from loratory.data.faults import RowFault
    from loratory.data.preview import preview_records

    records = (record for stream in streams for _, _, record in stream if not isinstance(record, RowFault))
    chosen = list(islice(records, rows))
    if not chosen:
        raise DataError("no row can be used; `loratory data check` says why")
    for example in preview_records(chosen, bound, loaded):
        show_example(example, cutoff_len=settings.data.cutoff_len)


def _read(run_file: Path) -> "RunConfig":
    from loratory.config import read_config

    reading = read_config(run_file)
    for sentence in reading.notes:
        note(sentence)
    return reading.config


def _streams(
    files: Sequence[str] | None,
    section: "DataConfig | None",
    row_format: str | None,
    columns: Sequence[str] | None,
    *,
    require_answer: bool = True,
) -> list["RecordStream"]:
    from loratory.data.record_stream import RecordStream
    from loratory.data.sources import source_names

    if files is None or (not files and section is None):
        if section is None:
            if files is None:
                raise ConfigError("no file given: name files of rows, or a run file with --config")
            return []
        files = source_names(section.train)
    mapped = dict(section.columns) if section is not None else {}
    for pair in columns or ():
        ours, mark, theirs = pair.partition("=")
        if not (ours and mark and theirs):
            raise ConfigError(f"--column: got {pair!r}; write our field, then the file's column: output=category")
        mapped[ours] = theirs
    return [
        RecordStream(
            file,
            format=row_format or (section.format if section is not None else "auto"),
            columns=mapped,
            system=section.system if section is not None else None,
            require_answer=require_answer,
            dataset_dir=section.dataset_dir if section is not None else None,
        )
        for file in files
    ]


def _bind(
    settings: "RunConfig | None", tokenizer: str | None, template: str | None, *, trust_remote_code: bool
) -> tuple["PreTrainedTokenizerBase", "BoundTemplate"]:
    from loratory.config import ModelConfig
    from loratory.data.templates import bind_template
    from loratory.model.tokenizer import load_tokenizer

    if settings is None:
        assert tokenizer is not None
        loaded = load_tokenizer(ModelConfig(model_name_or_path=tokenizer), trust_remote_code=trust_remote_code)
        return loaded, bind_template(template or "auto", loaded)
    section = settings.data
    model = settings.model
    if tokenizer is not None:
        model = model.model_copy(update={"tokenizer_name_or_path": tokenizer})
    loaded = load_tokenizer(model, trust_remote_code=trust_remote_code)
    bound = bind_template(
        template or section.template,
        loaded,
        train_on_inputs=section.train_on_inputs,
        add_eos_token=section.add_eos_token,
    )
    return loaded, bound


def _estimate(report: "TokenReport", settings: "RunConfig", run: Path | None) -> "TimeEstimate | None":
    """Time to train on the rows, or None when nothing is known of the model's size."""
    from loratory.data.time_estimate import estimate_from_run, parameter_count, rough_estimate

    num_tokens = int(report.num_tokens * settings.train.num_epochs)
    if run is not None:
        return estimate_from_run(num_tokens, run / "metrics.jsonl" if run.is_dir() else run)
    parameters = parameter_count(Path(settings.model.model_name_or_path))
    return rough_estimate(num_tokens, parameters) if parameters is not None else None


def _limit(value: float) -> float | None:
    return None if math.isinf(value) else value
