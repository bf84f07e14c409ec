"""`loratory demo`: one small model, taken from knowing nothing of a task to a merged model, with every figure shown.

It only joins the rooms, as a user would with the verbs of the command line: data, base scores, training, prediction,
scores, merge. A second run keeps what is finished and goes on where the first one stopped.
"""

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.syntax import Syntax
from transformers.utils import logging as transformers_logging

from loratory.adapter.merge import merge_adapter
from loratory.compare.test_set import write_test_set
from loratory.config import RunConfig, config_to_yaml, read_config
from loratory.data.reader import fingerprint, read_section_rows
from loratory.data.records import Record
from loratory.demo.base_model import ensure_base_model
from loratory.demo.data_check import check_data, show_data
from loratory.demo.result import DemoResult, certificate_text, examples_table, result_text, score_text, show_result
from loratory.demo.run_file import DEFAULT_WORKDIR, run_file_text
from loratory.demo.stages import Stages
from loratory.demo.telecom import generate_telecom
from loratory.engine.training import run_training
from loratory.evaluation.predictions import write_scores
from loratory.evaluation.text import Score, score_texts
from loratory.infer.predict import Prediction, write_predictions
from loratory.infer.session import open_session
from loratory.run import RunDirectory
from loratory.run.commit import write_text
from loratory.run.provenance import read_provenance

BASE_NAME = "SmolLM2-135M-Instruct (dequantised Q4_1)"


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
    label = BASE_NAME if base_model is None else str(base_model)
    workdir.mkdir(parents=True, exist_ok=True)

    with stages.stage("Base model and data"):
        console.print(f"base model: {label} (fetched once)", markup=False, highlight=False)
        _place_base_model(workdir / "base_model", base_model)
        generate_telecom(workdir / "data")
        run_file = workdir / "telecom.yaml"
        write_text(run_file, run_file_text(workdir))
        config = read_config(run_file, overrides).config
        assert isinstance(config.data.train, str)
        assert config.data.test is not None
        train_records = read_section_rows(config.data.train, config.data).records
        test_records = read_section_rows(config.data.test, config.data).records
        show_data(check_data(train_records, test_records), console)

    with stages.stage("Ask the base model"):
        base_predictions = _predict(config, None, test_records, console)
        base = _score(base_predictions, config)
        untrained = f"{label}, untrained: exact match {score_text(base['exact_match'])} of {len(test_records)} rows"
        console.print(untrained, markup=False, highlight=False)

    with stages.stage("Train LoRA"):
        console.print(Syntax(run_file.read_text(encoding="utf-8"), "yaml", background_color="default"))
        run_dir = _train(config, console)

    with stages.stage("Predict and score with the adapter"):
        adapter_predictions = _predict(config, run_dir, test_records, console)
        adapter = _score(adapter_predictions, config)
        keep = partial(_keep, source=str(config.data.test), records=test_records)
        keep(run_dir.predictions / "test-base", base_predictions, base)
        keep(run_dir.predictions / "test", adapter_predictions, adapter)
        console.print(examples_table(test_records, base_predictions, adapter_predictions))

    with stages.stage("Merge, with certificate"):
        merged = workdir / "merged"
        certificate = merge_adapter(config.model, run_dir.final_model, merged, overwrite=True)
        console.print(certificate_text(certificate), highlight=False)

    with stages.stage("Result"):
        result = DemoResult(
            base_name=label,
            base=base,
            adapter=adapter,
            certificate=certificate,
            run_file=run_file,
            run_dir=run_dir.path,
            merged=merged,
            seconds=dict(stages.seconds),
            peak_memory_bytes=stages.peak_bytes,
        )
        write_text(workdir / "demo.json", result_text(result))
        show_result(result, console)
    return result


def _place_base_model(link: Path, given: Path | None) -> None:
    """Make `link` lead to the base model, so that the run file names a path inside the demo's own folder."""
    target = (ensure_base_model() if given is None else given).resolve()
    if link.is_symlink() or link.exists():
        if link.resolve() == target:
            return
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    link.symlink_to(target, target_is_directory=True)


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
    section = config.predict
    columns = (TextColumn("answers"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("answers", total=len(records))
        return session.predict(
            records,
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            on_progress=lambda done: bar.update(task, completed=done),
        )


def _keep(
    folder: Path,
    predictions: Sequence[Prediction],
    scores: Mapping[str, Score],
    *,
    source: str,
    records: Sequence[Record],
) -> None:
    """Write predictions and scores as `loratory predict` would."""
    write_predictions(folder / "generated_predictions.jsonl", predictions)
    write_test_set(folder, source, records)
    write_scores(folder / "text_metrics.json", scores)


def _score(predictions: Sequence[Prediction], config: RunConfig) -> dict[str, Score]:
    return score_texts(
        [row.predict for row in predictions],
        [row.label for row in predictions],
        long_answer_chars=config.evaluation.long_answer_chars,
    )


def _train(config: RunConfig, console: Console) -> RunDirectory:
    """Train, go on, or keep the finished run, whichever fits what is in the run directory."""
    path = Path(config.run.output_dir) / config.run.name
    is_there = (path / "provenance.json").is_file()
    is_same = is_there and _is_same_run(RunDirectory.read(path), config)
    with _freed_memory():
        result = run_training(config, resume=is_same, overwrite=is_there and not is_same, console=console)
    return RunDirectory.read(result.run_dir)


def _is_same_run(run: RunDirectory, config: RunConfig) -> bool:
    """Whether the run has this very configuration and was trained on what the data file holds now."""
    data = read_provenance(run.provenance).get("data")
    return (
        run.config.read_text(encoding="utf-8") == config_to_yaml(config)
        and isinstance(data, dict)
        and isinstance(config.data.train, str)
        and data.get("train") == fingerprint(config.data.train)
    )


@contextmanager
def _freed_memory() -> Iterator[None]:
    """Give back what earlier stages held before the one that needs most, and after it."""
    gc.collect()
    yield
    gc.collect()
