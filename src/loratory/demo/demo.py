"""`loratory demo`: one small model, taken from knowing nothing of a task to a merged model, with every figure shown.

It only joins the rooms, as a user would with the verbs of the command line: data, base scores, training, prediction,
scores, merge. A second run keeps what is finished and goes on where the first one stopped.
"""

import gc
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from transformers.utils import logging as transformers_logging

from loratory.adapter.certificate import Certificate
from loratory.adapter.merge import merge_adapter
from loratory.config import RunConfig, config_to_yaml, read_config
from loratory.data.reader import read_records
from loratory.data.records import Record
from loratory.demo.base_model import ensure_base_model
from loratory.demo.data_check import check_data, show_data
from loratory.demo.run_file import DEFAULT_WORKDIR, run_file_text
from loratory.demo.stages import Stages, peak_memory_bytes
from loratory.demo.telecom import generate_telecom
from loratory.engine.training import run_training
from loratory.evaluation.predictions import write_scores
from loratory.evaluation.text import Score, score_texts
from loratory.infer.predict import Prediction, write_predictions
from loratory.infer.session import open_session
from loratory.run import RunDirectory
from loratory.run.commit import write_text

BASE_NAME = "SmolLM2-135M-Instruct (dequantised Q4_1)"
_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured and made.

    Attributes:
        base: Scores of the base model on the test rows, by metric.
        adapter: Scores of the base with the trained adapter on the same rows.
        certificate: How close the merged model is to the adapter on its base.
        run_file: The YAML that was trained with.
        run_dir: The run directory.
        merged: The merged model's folder.
        seconds: Wall-clock seconds by stage.
        peak_memory_bytes: Largest resident set of the process.
    """

    base: Mapping[str, Score]
    adapter: Mapping[str, Score]
    certificate: Certificate
    run_file: Path
    run_dir: Path
    merged: Path
    seconds: Mapping[str, float]
    peak_memory_bytes: int


def run_demo(
    workdir: Path = DEFAULT_WORKDIR,
    *,
    console: Console | None = None,
    base_model: Path | None = None,
    overrides: Sequence[str] = (),
) -> DemoResult:
    """Check data, ask the base, train LoRA, predict, score, merge, and show a table of base against adapter.

    Args:
        workdir: Where data, model link, run and merged model go.
        console: Where everything is shown; default standard output.
        base_model: A model folder to use instead of the demo's own, which is fetched on first use.
        overrides: `section.key=value` assignments on top of the demo's run file.

    Raises:
        LoratoryError: As the rooms raise it.
    """
    console = console if console is not None else Console()
    transformers_logging.disable_progress_bar()
    stages = Stages(console, total=6)
    workdir.mkdir(parents=True, exist_ok=True)

    with stages.stage("Base model and data"):
        _place_base_model(workdir / "base_model", base_model)
        console.print(f"base model: {_base_label(base_model)}", markup=False, highlight=False)
        generate_telecom(workdir / "data")
        run_file = workdir / "telecom.yaml"
        write_text(run_file, run_file_text(workdir))
        config = read_config(run_file, overrides).config
        train_records, test_records = _read_rows(config, config.data.train), _read_rows(config, config.data.test)
        show_data(check_data(train_records, test_records), console)

    with stages.stage("Ask the base model"):
        base_predictions = _predict(config, None, test_records, console)
        base = _score(base_predictions, config)
        console.print(
            f"exact match {_cell(base['exact_match'])} of {len(test_records)} test rows, before any training",
            markup=False,
        )

    with stages.stage("Train LoRA"):
        console.print(Syntax(run_file.read_text(encoding="utf-8"), "yaml", background_color="default"))
        run_dir = _train(config, console)

    with stages.stage("Predict and score with the adapter"):
        adapter_predictions = _predict(config, run_dir, test_records, console)
        adapter = _score(adapter_predictions, config)
        for name, predictions, scores in (
            ("test-base", base_predictions, base),
            ("test", adapter_predictions, adapter),
        ):
            write_predictions(run_dir.predictions / name / "generated_predictions.jsonl", predictions)
            write_scores(run_dir.predictions / name / "text_metrics.json", scores)
        console.print(_examples(test_records, base_predictions, adapter_predictions))

    with stages.stage("Merge, with certificate"):
        merged = workdir / "merged"
        certificate = merge_adapter(config.model, run_dir.final_model, merged, overwrite=True)
        console.print(_verdict(certificate), highlight=False)

    with stages.stage("Result"):
        console.print(_comparison(base, adapter, _base_label(base_model)))
        result = DemoResult(
            base, adapter, certificate, run_file, run_dir.path, merged, dict(stages.seconds), peak_memory_bytes()
        )
        write_text(workdir / "demo.json", _result_text(result))
        _show_places(result, console)
    return result


def _base_label(given: Path | None) -> str:
    return BASE_NAME if given is None else str(given)


def _place_base_model(link: Path, given: Path | None) -> None:
    """Make `link` lead to the base model, so that the run file names a path inside the demo's own folder."""
    target = (ensure_base_model() if given is None else given).resolve()
    if link.is_symlink() or link.exists():
        if link.resolve() == target:
            return
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    link.symlink_to(target, target_is_directory=True)


def _read_rows(config: RunConfig, source: str | None) -> tuple[Record, ...]:
    assert source is not None
    section = config.data
    return read_records(
        source,
        format=section.format,
        columns=section.columns,
        system=section.system,
        max_bad_rows=section.max_bad_rows,
    ).records


def _predict(
    config: RunConfig, run_dir: RunDirectory | None, records: Sequence[Record], console: Console
) -> list[Prediction]:
    """Answer the test rows greedily with the base, or with the run's adapter on it."""
    session = open_session(
        config.model,
        None if run_dir is None else run_dir.final_model,
        config.data.template,
        contract_file=None if run_dir is None else run_dir.template,
        keep_base=False,
    )
    section = config.evaluation
    columns = (TextColumn("answers"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("answers", total=len(records))
        return session.predict(
            records,
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            on_progress=lambda done: bar.update(task, completed=done),
        )


def _score(predictions: Sequence[Prediction], config: RunConfig) -> dict[str, Score]:
    return score_texts(
        [row.predict for row in predictions],
        [row.label for row in predictions],
        long_answer_chars=config.evaluation.long_answer_chars,
    )


def _train(config: RunConfig, console: Console) -> RunDirectory:
    """Train, go on, or keep the finished run, whichever fits what is in the run directory."""
    path = Path(config.run.output_dir) / config.run.name
    before = path / "config.yaml"
    is_same = before.is_file() and before.read_text(encoding="utf-8") == config_to_yaml(config)
    with _freed_memory():
        result = run_training(config, resume=is_same, overwrite=before.is_file() and not is_same, console=console)
    return RunDirectory.read(result.run_dir)


@contextmanager
def _freed_memory() -> Iterator[None]:
    """Give back what earlier stages held before the one that needs most, and after it."""
    gc.collect()
    yield
    gc.collect()


def _cell(score: Score | None) -> str:
    return "–" if score is None else f"{score.value:.1f} % [{score.low:.1f}, {score.high:.1f}]"


def _comparison(base: Mapping[str, Score], adapter: Mapping[str, Score], label: str) -> Table:
    table = Table(
        "metric",
        "base",
        "base + adapter",
        "rows",
        title="Test rows, greedy answers, 95 % intervals in brackets",
        caption=f"base: {label}",
    )
    for name, score in adapter.items():
        table.add_row(name, Text(_cell(base.get(name))), Text(_cell(score)), str(score.n))
    return table


def _examples(records: Sequence[Record], base: Sequence[Prediction], adapter: Sequence[Prediction]) -> Table:
    table = Table("question", "label", "base", "base + adapter")
    for record, before, after in list(zip(records, base, adapter, strict=True))[:_EXAMPLES_SHOWN]:
        texts = (record.prompt[-1].content, after.label, " ".join(before.predict.split()), after.predict)
        table.add_row(*(Text(text) for text in texts))
    return table


def _verdict(certificate: Certificate) -> str:
    measured = certificate.measured
    return (
        f"merged in {certificate.dtype}; over {measured.num_positions} positions against the adapter on its base: "
        f"largest logit difference {measured.max_logit_difference:.2g} (logits up to {measured.logit_scale:.3g}), "
        f"mean KL {measured.mean_kl_nats:.2g} nats, same likeliest token {measured.top1_agreement:.1%}"
    )


def _result_text(result: DemoResult) -> str:
    values = {
        "base": {name: asdict(score) for name, score in result.base.items()},
        "adapter": {name: asdict(score) for name, score in result.adapter.items()},
        "seconds": {title: round(seconds, 2) for title, seconds in result.seconds.items()},
        "peak_memory_bytes": result.peak_memory_bytes,
    }
    return json.dumps(values, indent=2) + "\n"


def _show_places(result: DemoResult, console: Console) -> None:
    """Print where the files are, what it took, and what to try next."""
    run = result.run_dir
    places = Table.grid(padding=(0, 2))
    for name, path in (
        ("data and its card", result.run_file.parent / "data"),
        ("run file", result.run_file),
        ("adapter", run / "final_model"),
        ("predictions", run / "predictions"),
        ("merged model", result.merged),
        ("these figures", result.run_file.parent / "demo.json"),
    ):
        places.add_row(name, str(path))
    console.print(places, highlight=False)
    times = ", ".join(f"{title.lower()} {seconds:.0f} s" for title, seconds in result.seconds.items())
    total_s = sum(result.seconds.values())
    peak = result.peak_memory_bytes / 2**30
    console.print(f"\ntime: {times}; together {total_s:.0f} s. Peak memory {peak:.2f} GiB.", highlight=False)
    console.print("\nTry next:", highlight=False)
    for command in (
        f"loratory chat {run}",
        f"loratory predict {run} --data {result.run_file.parent / 'data' / 'test_100.json'}",
        f"loratory train {result.run_file} run.name=telecom-qv adapter.targets=[q_proj,v_proj]",
    ):
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
