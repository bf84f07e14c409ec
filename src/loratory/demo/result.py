"""What the demo measured, and how it is shown: base against adapter, the certificate, the files, the time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loratory.adapter.certificate import Certificate
from loratory.data.records import Record
from loratory.evaluation.text import Score
from loratory.infer.predict import Prediction

_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured and made.

    Attributes:
        base_name: What the base model is, quantisation of its weights included.
        base: Scores of the base model on the test rows, by metric.
        adapter: Scores of the base with the trained adapter on the same rows.
        certificate: How close the merged model is to the adapter on its base.
        run_file: The YAML that was trained with.
        run_dir: The run directory.
        merged: The merged model's folder.
        seconds: Wall-clock seconds by stage.
        peak_memory_bytes: Largest resident set of the process.
    """

    base_name: str
    base: Mapping[str, Score]
    adapter: Mapping[str, Score]
    certificate: Certificate
    run_file: Path
    run_dir: Path
    merged: Path
    seconds: Mapping[str, float]
    peak_memory_bytes: int


def score_text(score: Score | None) -> str:
    """A score with its interval; a dash where no row took part."""
    return "–" if score is None else f"{score.value:.1f} % [{score.low:.1f}, {score.high:.1f}]"


def examples_table(records: Sequence[Record], base: Sequence[Prediction], adapter: Sequence[Prediction]) -> Table:
    """The first few questions with the expected answer and both models' answers."""
    table = Table("question", "label", "base", "base + adapter")
    for record, before, after in list(zip(records, base, adapter, strict=True))[:_EXAMPLES_SHOWN]:
        texts = (record.prompt[-1].content, after.label, " ".join(before.predict.split()), after.predict)
        table.add_row(*(Text(text) for text in texts))
    return table


def certificate_text(certificate: Certificate) -> str:
    """The certificate in one sentence."""
    measured = certificate.measured
    return (
        f"merged in {certificate.dtype}; over {measured.num_positions} positions against the adapter on its base: "
        f"largest logit difference {measured.max_logit_difference:.2g} (logits up to {measured.logit_scale:.3g}), "
        f"mean KL {measured.mean_kl_nats:.2g} nats, same likeliest token {measured.top1_agreement:.1%}"
    )


def result_text(result: DemoResult) -> str:
    """The figures as JSON."""
    values = {
        "base_model": result.base_name,
        "base": {name: asdict(score) for name, score in result.base.items()},
        "adapter": {name: asdict(score) for name, score in result.adapter.items()},
        "merge": asdict(result.certificate.measured),
        "seconds": {title: round(seconds, 2) for title, seconds in result.seconds.items()},
        "peak_memory_bytes": result.peak_memory_bytes,
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def show_result(result: DemoResult, console: Console) -> None:
    """Print base against adapter, where the files are, what it took, and what to try next."""
    scores = Table(
        "metric",
        "base",
        "base + adapter",
        "rows",
        title="Test rows, greedy answers, 95 % intervals in brackets",
        caption=f"base: {result.base_name}",
    )
    for name, score in result.adapter.items():
        scores.add_row(name, Text(score_text(result.base.get(name))), Text(score_text(score)), str(score.n))
    console.print(scores)
    folder, run = result.run_file.parent, result.run_dir
    places = Table.grid(padding=(0, 2))
    for name, path in (
        ("data and its card", folder / "data"),
        ("run file", result.run_file),
        ("adapter", run / "final_model"),
        ("predictions", run / "predictions"),
        ("merged model", result.merged),
        ("these figures", folder / "demo.json"),
    ):
        places.add_row(name, Text(str(path)))
    console.print(places)
    times = ", ".join(f"{title.lower()} {seconds:.0f} s" for title, seconds in result.seconds.items())
    total_s = sum(result.seconds.values())
    console.print(
        f"\ntime: {times}; together {total_s:.0f} s. Peak memory {result.peak_memory_bytes / 2**30:.2f} GiB.",
        highlight=False,
    )
    console.print("\nTry next:")
    for command in (
        f"loratory chat {run}",
        f"loratory predict {run} --data {folder / 'data' / 'test_100.json'}",
        f"loratory train {result.run_file} run.name=telecom-qv adapter.targets=[q_proj,v_proj]",
    ):
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
