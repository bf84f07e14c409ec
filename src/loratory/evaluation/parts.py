"""The parts of an evaluation: ppl, zero_shot, text, speed, memory. Each fills its log item by item."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.config import EvaluationConfig, PredictConfig
from loratory.data.reader import ReadResult, fingerprint, read_records
from loratory.data.records import Record
from loratory.errors import DataError
from loratory.evaluation.corpus import read_corpus
from loratory.evaluation.measure import Measure
from loratory.evaluation.memory import macs_measure, peak_measures, size_measures
from loratory.evaluation.part_log import PartLog
from loratory.evaluation.perplexity import row_perplexity, text_perplexity
from loratory.evaluation.results import DataUsed
from loratory.evaluation.speed import Workload, measure_speed
from loratory.evaluation.subject import Subject
from loratory.evaluation.text import Score, score_texts
from loratory.evaluation.windows import Windowing, opening_token
from loratory.infer.generate import context_length
from loratory.infer.predict import Prediction, write_predictions
from loratory.infer.sampling import Sampling
from loratory.infer.session import Session
from loratory.tree.scorer import Scorer
from loratory.tree.scorers import make_scorer

if TYPE_CHECKING:
    from loratory.evaluation.zero_shot import TaskScore

USUAL_WINDOW = 2048
ROW_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows with answers, and how they are read; see `loratory.data.reader.read_records`."""

    source: str
    format: str = "auto"
    columns: Mapping[str, str] | None = None
    system: str | None = None
    max_bad_rows: int = 0
    dataset_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure.

    Attributes:
        evaluation: Section `evaluation`.
        predict: Section `predict`.
        rows: Rows for the text metrics and the perplexity of answers, or None.
        seed: Seed of sampling, few-shot examples and bootstraps.
        predictions: Where the answers to `rows` are written.
        labels: Closed set of answers to choose from instead of generating, or None.
        progress: Called with a label, what is done and how much there is.
    """

    evaluation: EvaluationConfig
    predict: PredictConfig
    rows: RowSource | None
    seed: int
    predictions: Path
    progress: Progress
    labels: Sequence[str] | None = None


def measure_ppl(subject: Subject, task: Task, log: PartLog) -> None:
    """Perplexity of the texts, and of the rows' answers."""
    section = task.evaluation
    scorer = make_scorer(subject.model)
    log.note = f"scorer path '{scorer.path}': {scorer.reason}"
    for name in section.perplexity_texts:
        with log.item(name):
            if name.lower().endswith(ROW_SUFFIXES):
                log.add(*_row_ppl(subject, task, RowSource(name), scorer))
            else:
                log.add(*_text_ppl(subject, task, name, scorer))
    if task.rows is not None and task.rows.source not in section.perplexity_texts:
        with log.item(task.rows.source):
            log.add(*_row_ppl(subject, task, task.rows, scorer))


def measure_zero_shot(subject: Subject, task: Task, log: PartLog) -> None:
    """Accuracy on lm-eval's tasks, one after the other, so that one without data does not take the others along."""
    from loratory.evaluation.zero_shot import zero_shot_scores

    section = task.evaluation
    for name in section.zero_shot_tasks:
        with log.item(name):
            for result in zero_shot_scores(
                subject.model,
                subject.tokenizer,
                tasks=[name],
                data_dir=_zero_shot_folder(section.data_dir),
                limit=section.limit,
                num_fewshot=section.num_fewshot,
                seed=task.seed,
                on_progress=task.progress,
            ):
                choices = f"lm-eval={result.lm_eval_version},version={result.task_version},shots={result.num_fewshot}"
                first = f",first={result.limit}" if result.limit is not None else ""
                measures = [
                    _percent(f"{metric}@{choices}{first}", result.task, score)
                    for metric, score in result.scores.items()
                ]
                notes = [f"{result.source.kind}, split {result.source.split}", f"scorer path '{result.scorer_path}'"]
                if result.num_truncated:
                    notes.append(
                        f"{result.num_truncated} requests were longer than the context and lost their beginning"
                    )
                data = DataUsed(result.task, result.source.location, dict(result.source.sha256), tuple(notes))
                log.add(measures, data)


def measure_text(subject: Subject, task: Task, log: PartLog) -> None:
    """Answers to the rows, scored against their labels."""
    if task.rows is None:
        log.note = "no rows to answer; give --data FILE (a run uses data.test)"
        return
    on = Path(task.rows.source).name
    with log.item(on):
        reading, data = _read_rows(task.rows, limit=task.evaluation.limit)
        if num_without := sum(record.expected is None for record in reading.records):
            raise DataError(f"{on}: {num_without} answers were judged bad ones, so there is nothing to compare with")
        session = subject.session()
        predictions = _answers(session, task, reading.records, on)
        write_predictions(task.predictions, predictions)
        scores = score_texts(
            [row.predict for row in predictions],
            [row.label for row in predictions],
            long_answer_chars=task.evaluation.long_answer_chars,
            seed=task.seed,
        )
        how = "generated" if task.labels is None else f"chosen among {len(task.labels)} labels"
        log.note = f"answers {how} under template '{session.template.name}': {task.predictions.name}"
        log.add([_percent(name, on, score) for name, score in scores.items()], data)


def measure_speed_part(subject: Subject, task: Task, log: PartLog) -> None:
    """Rates and latencies for each batch size."""
    section = task.evaluation
    for workload in _workloads(task):
        label = f"speed batch {workload.batch_size}"
        total = section.speed_warmup + section.speed_repeats
        with log.item(f"batch {workload.batch_size}"):
            log.add(
                measure_speed(
                    subject.model,
                    workload,
                    repeats=section.speed_repeats,
                    warmup=section.speed_warmup,
                    on_progress=_steps(task, label, total),
                )
            )


def measure_memory(subject: Subject, task: Task, log: PartLog) -> None:
    """Sizes, arithmetic, and peak memory for each batch size."""
    log.add(size_measures(subject.model, subject.files))
    with log.item("macs"):
        log.add([macs_measure(subject.model, num_tokens=task.evaluation.speed_prompt_tokens)])
    for workload in _workloads(task):
        with log.item(f"batch {workload.batch_size}"):
            log.add(peak_measures(subject.model, workload))


# In the order of measuring: memory before anything has grown the process, speed before anything has warmed it.
PARTS: Mapping[str, Callable[[Subject, Task, PartLog], None]] = {
    "memory": measure_memory,
    "speed": measure_speed_part,
    "ppl": measure_ppl,
    "zero_shot": measure_zero_shot,
    "text": measure_text,
}


def _answers(session: Session, task: Task, records: Sequence[Record], on: str) -> list[Prediction]:
    section = task.predict
    show = _steps(task, f"answers {on}", len(records))
    if task.labels is not None:
        return session.predict_labels(records, task.labels, batch_size=section.batch_size, on_progress=show)
    sampling = Sampling(section.temperature, section.top_p, section.top_k, task.seed) if section.do_sample else None
    return session.predict(
        records,
        max_new_tokens=section.max_new_tokens,
        batch_size=section.batch_size,
        sampling=sampling,
        on_progress=show,
    )


def _steps(task: Task, label: str, total: int) -> Callable[[int], None]:
    return lambda done: task.progress(label, done, total)


def _workloads(task: Task) -> Iterator[Workload]:
    section = task.evaluation
    for size in section.speed_batch_sizes:
        yield Workload(section.speed_prompt_tokens, section.speed_new_tokens, size)


def _text_ppl(subject: Subject, task: Task, name: str, scorer: Scorer) -> tuple[list[Measure], DataUsed]:
    section = task.evaluation
    corpus = read_corpus(name, data_dir=None if section.data_dir is None else Path(section.data_dir))
    window = section.perplexity_window or min(USUAL_WINDOW, context_length(subject.model) or USUAL_WINDOW)
    bos = opening_token(subject.tokenizer, section.perplexity_bos)
    measures = text_perplexity(
        subject.model,
        subject.tokenizer,
        corpus,
        windowing=Windowing(window, section.perplexity_stride or window, bos),
        limit=section.limit,
        pass_tokens=section.pass_tokens,
        scorer=scorer,
        on_progress=lambda done, total: task.progress(f"perplexity {corpus.name}", done, total),
    )
    return measures, DataUsed(corpus.name, corpus.source, corpus.sha256)


def _row_ppl(subject: Subject, task: Task, rows: RowSource, scorer: Scorer) -> tuple[list[Measure], DataUsed]:
    reading, data = _read_rows(rows, limit=task.evaluation.limit)
    template = subject.session().template
    sequences = template.sequences(reading.records)
    limit = context_length(subject.model)
    too_long = [r for r, s in zip(reading.records, sequences, strict=True) if limit is not None and len(s) > limit]
    if too_long:
        raise DataError(
            f"{len(too_long)} of {len(sequences)} rows are longer than the model's context of {limit} tokens; the "
            f"first is {too_long[0].origin}. Shorten them or take them out"
        )
    measures = row_perplexity(
        subject.model,
        sequences,
        on=data.name,
        template=template.name,
        pass_tokens=task.evaluation.pass_tokens,
        scorer=scorer,
        on_progress=lambda done: task.progress(f"perplexity {data.name}", done, len(sequences)),
    )
    return measures, data


def _read_rows(rows: RowSource, *, limit: int | None) -> tuple[ReadResult, DataUsed]:
    reading = read_records(
        rows.source,
        format=rows.format,
        columns=rows.columns,
        system=rows.system,
        max_bad_rows=rows.max_bad_rows,
        limit=limit,
        dataset_dir=rows.dataset_dir,
    )
    if not reading.records:
        raise DataError(f"{rows.source}: holds no rows to score")
    notes = [f"rows left out: {count} ({why})" for why, count in reading.report.dropped.items()]
    if limit is not None:
        notes.append(f"the first {len(reading.records)} rows")
    sha256 = fingerprint(rows.source, dataset_dir=rows.dataset_dir)
    return reading, DataUsed(Path(rows.source).name, rows.source, sha256, tuple(notes))


def _zero_shot_folder(data_dir: str | None) -> Path | None:
    """The tasks' folder inside `data_dir`, or that folder itself."""
    if data_dir is None:
        return None
    inner = Path(data_dir) / "zero_shot"
    return inner if inner.is_dir() else Path(data_dir)


def _percent(name: str, on: str, score: "Score | TaskScore") -> Measure:
    return Measure(
        name=name, on=on, value=score.value, unit="%", n=score.n, n_of="rows", low=score.low, high=score.high,
        interval="95 % bootstrap over rows", definition=score.definition,
    )  # fmt: skip
