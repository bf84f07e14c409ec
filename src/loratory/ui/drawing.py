"""What the page shows, as HTML: the list, a run's curves, a comparison, a plan. Every text is escaped."""

import time
from collections.abc import Mapping, Sequence
from html import escape

from loratory.compare.wording import seconds_words
from loratory.plan.planning import Plan
from loratory.plan.tables import fit_words, notes_below, plan_tables
from loratory.report.chart import Series, line_chart, thin
from loratory.report.content import Content
from loratory.report.page import html_table, sections
from loratory.run.metrics import MetricValue
from loratory.ui.answers import Found
from loratory.ui.listing import RunRow
from loratory.ui.talk import Exchange

CURVES = (
    ("loss", "Training loss"),
    ("eval_loss", "Evaluation loss"),
    ("learning_rate", "Learning rate"),
    ("tokens_per_s", "Tokens per second"),
)
# Parts of a report that answer "which is better, and why"; the rest is in the report itself.
_COMPARED = ("result", "scores", "curves", "differences")
_SMOOTHED_FROM = 60


def list_html(rows: Sequence[RunRow], *, chosen: str | None, now_s: float) -> str:
    """The list of runs; a click on a name chooses it.

    Args:
        rows: The runs.
        chosen: Name of the run that is shown below.
        now_s: The time, for ages.
    """
    if not rows:
        return _framed('<p class="soft">No runs here yet. Write a run file under <b>New run</b> and start it.</p>')
    heads = ("run", "state", "progress", "loss", "evaluation loss", "tokens/s", "base", "method", "seed", "last step")
    numeric = {"loss", "evaluation loss", "tokens/s", "seed", "last step"}
    head = "".join(f'<th scope="col"{" class=n" if name in numeric else ""}>{name}</th>' for name in heads)
    body = "".join(_row_html(row, is_chosen=row.name == chosen, now_s=now_s) for row in rows)
    return _framed(
        '<div class="scroll tall"><table class="runs"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row_html(row: RunRow, *, is_chosen: bool, now_s: float) -> str:
    def number(key: str, form: str) -> str:
        return format(row.latest[key], form) if key in row.latest else "–"

    share = row.progress
    bar = (
        "–"
        if share is None
        else f'<span class="bar"><i style="width:{100 * share:.0f}%"></i></span> {100 * share:.0f} %'
    )
    age = f"{seconds_words(max(0.0, float(round(now_s - row.changed_s))))} ago" if row.changed_s else "–"
    name = escape(row.name, quote=True)
    cells = (
        bar, number("loss", ".4f"), number("eval_loss", ".4f"), number("tokens_per_s", ",.0f"), escape(row.base),
        escape(row.method), escape(row.seed), age,
    )  # fmt: skip
    numeric = {1, 2, 3, 6, 7}
    rest = "".join(f"<td{' class=n' if place in numeric else ''}>{cell}</td>" for place, cell in enumerate(cells))
    return (
        f'<tr{" class=chosen" if is_chosen else ""}><th scope="row">'
        f'<button type="button" class="pick" data-run="{name}">{name}</button></th>'
        f"<td>{state_html(row)}</td>{rest}</tr>"
    )


def state_html(row: RunRow) -> str:
    """The state as a coloured word."""
    return f'<span class="state {row.state}" title="{escape(row.reason, quote=True)}">{row.state}</span>'


def run_html(row: RunRow, metrics: Sequence[Mapping[str, MetricValue]]) -> str:
    """A run: what it is doing, and its curves."""
    reason = f' <span class="soft">{escape(row.reason)}</span>' if row.reason else ""
    step = f"step {row.latest['step']:,.0f}" if "step" in row.latest else "no step yet"
    figures = []
    for key, words in CURVES:
        points = [(float(line["step"]), float(line[key])) for line in metrics if key in line and "step" in line]
        if points:
            figures.append(_figure(key, words, points))
    charts = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    return _framed(
        f'<h2 class="run">{escape(row.name)} {state_html(row)}</h2>'
        f'<p>{step} <span class="soft">·</span> {escape(row.base)}{reason}</p>{charts}'
    )


def _figure(key: str, words: str, points: Sequence[tuple[float, float]]) -> str:
    lines = [Series(words, thin(points, _SMOOTHED_FROM if key == "loss" else 150), "c0")]
    if key == "loss" and len(points) > _SMOOTHED_FROM:
        lines.insert(0, Series("each logged step", thin(points, 400), "c0 raw"))
    value = format(points[-1][1], {"tokens_per_s": ",.0f", "learning_rate": ".3g"}.get(key, ".4f"))
    chart = line_chart(words, lines, x_label="step", y_label="")
    return f"<figure><figcaption>{words}, now <b>{value}</b></figcaption>{chart}</figure>"


def comparison_html(content: Content) -> str:
    """Runs compared: the verdict in words, scores with intervals, curves, what differs."""
    parts = [
        f"<section><h2>{escape(name)}</h2>{inside}</section>"
        for anchor, name, inside in sections(content)
        if anchor in _COMPARED and inside
    ]
    return _framed("".join(parts))


def answers_html(found: Found) -> str:
    """Rows of predictions beside each other."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("row", "question", "label", *found.titles))
    rows = []
    for row in found.rows:
        cells = "".join(
            f'<td class="{"hit" if is_right else "miss"}">{escape(text)}</td>' for text, is_right in row.answers
        )
        rows.append(f'<tr><td class="n">{row.number}</td><td class="q">{escape(row.question)}</td>'
                    f"<td>{escape(row.label)}</td>{cells}</tr>")  # fmt: skip
    body = "".join(rows)
    words = f"{found.total:,} of {found.num_rows:,} rows"
    shown = f", {found.first + 1:,} to {found.first + len(found.rows):,} shown" if found.rows else ""
    return _framed(
        f'<p class="soft" role="status">{words}{shown}; ✓ equals the label, ✗ does not</p>'
        f'<div class="scroll"><table class="answers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def talk_html(exchanges: Sequence[Exchange]) -> str:
    """A conversation: each question with the answers of base and adapter beside each other, as plain text."""
    parts = []
    for each in exchanges:
        answers = [("base", each.base), ("adapter", each.answer)] if each.base is not None else [("", each.answer)]
        sides = "".join(
            f'<div class="side"><span class="soft">{who}</span><p>{escape(text) or "…"}</p></div>'
            for who, text in answers
        )
        parts.append(f'<p class="question">{escape(each.question)}</p><div class="sides">{sides}</div>')
    return _framed(f'<div class="talk">{"".join(parts)}</div>')


def plan_html(plan: Plan, notes: Sequence[str]) -> str:
    """What a run would need."""
    said = (plan.report.describe(), fit_words(plan), *notes, *notes_below(plan))
    words = [each for each in said if each]
    listed = "".join(f"<li>{escape(line)}</li>" for line in words)
    tables = "".join(html_table(table) for table in plan_tables(plan))
    return _framed(f'<ul class="notes">{listed}</ul><div class="tables">{tables}</div>')


def faults_html(faults: Sequence[str]) -> str:
    """What is wrong with a run file, or that nothing is."""
    if not faults:
        return _framed('<p class="good">No faults: it can be planned and started.</p>')
    listed = "".join(f"<li>{escape(fault)}</li>" for fault in faults)
    return _framed(f'<ul class="faults">{listed}</ul>')


def problem_html(message: str) -> str:
    """Why something could not be done."""
    return _framed(f'<p class="problem" role="alert">{escape(message)}</p>')


def done_html(message: str) -> str:
    """What was done."""
    return _framed(f'<p class="good" role="status">{escape(message)}</p>')


def _framed(inside: str) -> str:
    return f'<div class="lab">{inside}</div>'


def now() -> float:
    """Seconds since the epoch."""
    return time.time()
