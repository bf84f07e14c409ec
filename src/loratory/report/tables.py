"""The report's tables as values; the page and its Markdown twin draw the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from loratory.compare import Comparison, RunFacts
from loratory.compare.settings import Difference
from loratory.compare.wording import bytes_words, number_words, seconds_words
from loratory.report.content import Content, run_titles

MAX_METRICS = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell.

    Attributes:
        text: What is shown.
        order: What the column is sorted by; None sorts by the text.
    """

    text: str
    order: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        caption: What it shows.
        header: Titles of the columns.
        rows: Cells.
        is_sortable: Whether a reader may sort it.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    is_sortable: bool = False


def text_cells(*texts: str) -> tuple[Cell, ...]:
    """Cells of plain text."""
    return tuple(Cell(text) for text in texts)


def value_cell(text: str) -> Cell:
    """A cell that sorts as a number where it is one."""
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text)


def experiments_table(content: Content) -> Table:
    """One row for each run: what differs, scores, losses, cost."""
    comparison = content.comparison
    differences = comparison.differences if comparison else ()
    names = [each.name for each in comparison.metrics][:MAX_METRICS] if comparison else []
    if comparison and comparison.primary in names:
        names.insert(0, names.pop(names.index(comparison.primary)))
    header = (
        "run",
        *(each.key.removeprefix("adapter.").removeprefix("train.") for each in differences),
        "seed",
        *names,
        "training loss",
        "evaluation loss",
        "training time",
        "peak memory",
        "trained",
        "on disk",
    )
    rows = [
        _run_row(run, title, content, differences, names)
        for run, title in zip(content.runs, run_titles(content.runs), strict=True)
    ]
    return Table("Runs; scores in percent", header, tuple(rows), is_sortable=True)


def _run_row(
    run: RunFacts, title: str, content: Content, differences: Sequence[Difference], names: Sequence[str]
) -> tuple[Cell, ...]:
    comparison, setting = content.comparison, content.settings.get(run.path)
    tried = [each.name for each in comparison.settings if not each.is_base] if comparison else []
    settings = [value_cell(each.values[tried.index(setting)] if setting else "–") for each in differences]
    scores = [_score_cell(comparison, setting, run, name) for name in names]
    cost = run.cost
    return (
        Cell(title),
        *settings,
        Cell("–" if run.seed is None else str(run.seed), None if run.seed is None else float(run.seed)),
        *scores,
        _loss_cell(last_loss(run)),
        _loss_cell(best_evaluation_loss(run)),
        Cell(seconds_words(cost.train_seconds), cost.train_seconds),
        Cell(bytes_words(cost.peak_bytes), cost.peak_bytes),
        Cell(number_words(cost.trainable), cost.trainable),
        Cell(bytes_words(cost.adapter_bytes), cost.adapter_bytes),
    )


def _score_cell(comparison: Comparison | None, setting: str | None, run: RunFacts, name: str) -> Cell:
    if comparison is None or setting is None:
        return Cell("–")
    found = next(each for each in comparison.settings if each.name == setting)
    value = comparison.metric(name).score(setting).runs[found.runs.index(str(run.path))]
    return Cell(f"{value:.1f}", value)


def last_loss(run: RunFacts) -> float | None:
    """Mean training loss of the last tenth of the logged steps."""
    losses = [float(line["loss"]) for line in run.metrics if "loss" in line]
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else None


def best_evaluation_loss(run: RunFacts) -> float | None:
    """The lowest evaluation loss."""
    return min((float(line["eval_loss"]) for line in run.metrics if "eval_loss" in line), default=None)


def _loss_cell(loss: float | None) -> Cell:
    return Cell("–" if loss is None else f"{loss:.4f}", loss)


def pairs_table(comparison: Comparison) -> Table:
    """Each pair of settings by the primary metric."""
    metric = comparison.metric(comparison.primary)
    rows = [
        (
            Cell(f"{pair.second} − {pair.first}"),
            Cell(f"{pair.difference:+.1f}", pair.difference),
            Cell(f"{pair.low:+.1f} to {pair.high:+.1f}", pair.low),
            Cell("–" if pair.wins is None else f"{pair.wins} / {pair.losses}", pair.wins),
            Cell(pair.test),
            Cell(_p_words(pair.p), pair.p),
            Cell(_p_words(pair.p_holm), pair.p_holm),
            Cell("yes" if pair.is_separable else "no"),
            Cell("–" if pair.rows_needed is None or pair.is_separable else f"{pair.rows_needed:,}", pair.rows_needed),
        )
        for pair in metric.pairs
    ]
    header = (
        "pair", "difference", "95 % interval", "better / worse rows", "test", "p", "p (Holm)", "separable",
        "rows needed",
    )  # fmt: skip
    return Table(f"Differences in {metric.name}, points, n = {metric.num_rows}", header, tuple(rows), is_sortable=True)


def differences_table(content: Content) -> Table:
    """The keys that not all settings share."""
    comparison = content.comparison
    assert comparison is not None
    tried = [each.name for each in comparison.settings if not each.is_base]
    rows = tuple(text_cells(each.key, *each.values) for each in comparison.differences)
    return Table("Configuration keys that differ", ("key", *tried), rows)


def environment_table(comparison: Comparison, runs: Sequence[RunFacts]) -> Table:
    """Versions and machine facts that not all runs share."""
    rows = tuple(text_cells(each.key, *each.values) for each in comparison.environment)
    return Table("Environments that differ", ("", *run_titles(runs)), rows)


def importance_table(content: Content) -> Table:
    """Each key's share of the variance, beside what chance gives."""
    rows = [
        (
            Cell(each.key),
            Cell("cannot be said" if each.share is None else f"{100 * each.share:.0f} %", each.share),
            Cell("–" if each.by_chance is None else f"{100 * each.by_chance:.0f} %", each.by_chance),
            Cell(f"{each.num_values} over {each.num_runs} runs", each.num_values),
            Cell(each.measure if each.share is not None else "–"),
            Cell(", ".join(each.together_with) or "–"),
        )
        for each in content.importance
    ]
    header = ("key", "share of variance", "by chance alone", "values", "measure", "changes together with")
    name = content.comparison.primary if content.comparison else ""
    return Table(f"Variance of {name} between runs that goes with each key", header, tuple(rows), is_sortable=True)


def data_table(content: Content) -> Table:
    """Where the rows came from, with fingerprints and counts."""
    rows = []
    if content.comparison is not None:
        test = content.comparison.test_set
        note = "questions and answers" if test.is_recorded else "prompts and labels of the predictions"
        rows.append(
            text_cells(
                f"test ({content.comparison.predictions})",
                test.source or "not recorded",
                f"{test.num_rows} rows",
                f"{test.sha256} ({note})",
                "all with scores",
            )
        )
    found: dict[tuple[str, str], list[str]] = {}
    sources: dict[tuple[str, str], str] = {}
    for run, title in zip(content.runs, run_titles(content.runs), strict=True):
        for role, sha256 in run.data.items():
            source = run.config.get(f"data.{role}")
            sources.setdefault((role, sha256), str(source or "–"))
            found.setdefault((role, sha256), []).append(title)
    for (role, sha256), titles in found.items():
        used = "all" if len(titles) == len(content.runs) else ", ".join(titles)
        rows.append(text_cells(role, sources[role, sha256], "–", f"{sha256} (file)", used))
    for run, title in zip(content.runs, run_titles(content.runs), strict=True):
        tokens = [float(line["supervised_tokens"]) for line in run.metrics if "supervised_tokens" in line]
        if tokens and len(content.runs) <= MAX_METRICS:
            rows.append(text_cells("tokens trained on", "metrics.jsonl", f"{sum(tokens):,.0f}", "–", title))
    return Table("Data", ("role", "source", "count", "sha256", "runs"), tuple(rows))


def certificates_table(content: Content) -> Table:
    """How close merged models are to their adapters on the base."""
    rows = []
    for each in content.certificates:
        measured = each.content.get("measured")
        values = measured if isinstance(measured, dict) else {}
        rows.append(
            text_cells(
                each.run,
                each.path.parent.name,
                str(each.content.get("dtype", "–")),
                _scientific(values.get("relative_logit_difference")),
                _scientific(values.get("mean_kl_nats")),
                f"{100 * agreement:.1f} %" if isinstance(agreement := values.get("top1_agreement"), float) else "–",
            )
        )
    header = (
        "run",
        "merged model",
        "format",
        "largest logit difference / scale",
        "mean KL, nats",
        "same likeliest token",
    )
    return Table("Merge certificates: merged model against adapter on base", header, tuple(rows))


def definitions_table(comparison: Comparison) -> Table:
    """What each metric is."""
    rows = tuple(text_cells(each.name, each.id, str(each.num_rows), each.definition) for each in comparison.metrics)
    return Table("Metrics", ("name", "id", "rows", "definition"), rows)


def settings_table(comparison: Comparison) -> Table:
    """Each setting's metrics with intervals."""
    rows = []
    for setting in comparison.settings:
        scores = [each.score(setting.name) for each in comparison.metrics]
        cells = (Cell(f"{score.value:.1f} ({score.low:.1f} to {score.high:.1f})", score.value) for score in scores)
        rows.append((Cell(setting.name), Cell("–" if setting.is_base else str(len(setting.runs))), *cells))
    names = (each.name for each in comparison.metrics)
    return Table("Settings: percent with 95 % intervals", ("setting", "seeds", *names), tuple(rows), is_sortable=True)


def _p_words(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _scientific(value: object) -> str:
    return f"{value:.1e}" if isinstance(value, float) else "–"
