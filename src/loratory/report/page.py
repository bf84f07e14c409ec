"""The report as one HTML file: style, script and data inside, nothing fetched. Every text is escaped."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from loratory.compare import Comparison, RunFacts
from loratory.compare.wording import number_words, seconds_words
from loratory.report import tables
from loratory.report.chart import NUM_COLOURS, Interval, Series, colour, interval_chart, line_chart, scatter_chart, thin
from loratory.report.class_errors import classes_table
from loratory.report.content import Content, run_titles, run_values
from loratory.report.predictions import answers_json, shown_rows
from loratory.report.study import Study
from loratory.report.tables import Table
from loratory.report.trials import trials_table

IMPORTANCE_WARNING = (
    "This describes these runs; it is no experiment on one key at a time. With few runs chance alone explains much "
    "(third column), and keys that change together share one number."
)


def html_page(content: Content, *, title: str) -> str:
    """The page.

    Args:
        content: What it shows.
        title: Its heading, plain text.
    """
    found = [section for section in sections(content) if section[2]]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in found)
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(name)}</h2>{inside}</section>' for anchor, name, inside in found
    )
    style, marks, script = (packed_text(name) for name in ("page.css", "marks.css", "page.js"))
    # No Content-Security-Policy by header is possible in a file; the one here forbids every fetch.
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}{marks}</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(summary(content))}</p><nav aria-label="Sections">{links}</nav></header>\n<main>'
        f"{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def packed_text(name: str) -> str:
    """A style or script that lies beside this module."""
    return files("loratory.report").joinpath(name).read_text(encoding="utf-8")


def summary(content: Content) -> str:
    """The report in a line: how many runs, on which rows."""
    runs = "1 run" if len(content.runs) == 1 else f"{len(content.runs)} runs"
    if content.comparison is None:
        return f"{runs}, no predictions"
    test = content.comparison.test_set
    return f"{runs}; {test.num_rows} test rows ({content.comparison.predictions}, sha256 {test.sha256[:12]})"


def sections(content: Content) -> list[tuple[str, str, str]]:
    """Anchor, heading and content of each section; an empty content leaves the section out."""
    comparison = content.comparison
    return [
        ("result", "Result", _result(content)),
        ("study", "Study", "".join(_study(study) for study in content.studies)),
        ("runs", "Experiments", html_table(tables.experiments_table(content), label="Experiments")),
        ("scores", "Scores and cost", _scores(content, comparison) if comparison else ""),
        ("curves", "Loss curves", _curves(content)),
        ("differences", "What differs", _differences(content)),
        ("importance", "What mattered", _importance(content)),
        ("classes", "Errors by class", html_table(classes_table(content)) if content.classes else ""),
        ("answers", "Answers side by side", _answers(content) if comparison else ""),
        ("data", "Data", html_table(tables.data_table(content))),
        (
            "certificates",
            "Certificates",
            html_table(tables.certificates_table(content)) if content.certificates else "",
        ),
        ("metrics", "Metrics", html_table(tables.definitions_table(comparison)) if comparison else ""),
    ]


def html_table(table: Table, *, label: str = "") -> str:
    """A table; numbers to the right, and buttons in the header where it can be sorted."""
    numeric = [
        bool(table.rows) and any(row[i].order is not None for row in table.rows) for i in range(len(table.header))
    ]
    heads = []
    for name, is_number in zip(table.header, numeric, strict=True):
        inside = f"<button>{escape(name)}</button>" if table.is_sortable else escape(name)
        heads.append(f'<th scope="col"{" class=n" if is_number else ""}>{inside}</th>')
    rows = []
    for row in table.rows:
        cells = [f'<th scope="row">{escape(row[0].text)}</th>']
        for cell, is_number in zip(row[1:], numeric[1:], strict=True):
            order = "" if cell.order is None else f' data-v="{cell.order:.9g}"'
            cells.append(f"<td{' class=n' if is_number else ''}{order}>{escape(cell.text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr>{''.join(heads)}</tr></thead>" if any(table.header) else ""
    kind = ' class="sortable"' if table.is_sortable else ""
    region = escape(label or table.caption, quote=True)
    tall = " tall" if len(rows) > 16 else ""
    return (
        f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{region}"><table{kind}>'
        f"<caption>{escape(table.caption)}</caption>{head}"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _list(lines: Sequence[str], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _result(content: Content) -> str:
    comparison = content.comparison
    if comparison is None:
        return _list(content.notes, "notes")
    metric = comparison.metric(comparison.primary)
    inside = _list(comparison.verdict, "verdict")
    if not metric.pairs:
        score = metric.scores[0]
        interval = f"({score.low:.1f} to {score.high:.1f})"
        words = f"{score.setting}: {metric.name} {score.value:.1f} % {interval}, n = {metric.num_rows}"
        inside = _list([words], "verdict")
    return inside + _list([*comparison.notes, *content.notes], "notes")


def _study(study: Study) -> str:
    return _list(study.words, "verdict") + html_table(trials_table(study))


def _styles(comparison: Comparison) -> dict[str, str]:
    """Colour of each setting: its own while colours last, else the best one's alone."""
    names = [setting.name for setting in comparison.settings if not setting.is_base]
    bases = {setting.name: "cx" for setting in comparison.settings if setting.is_base}
    if len(names) <= NUM_COLOURS:
        return {**bases, **{name: colour(place) for place, name in enumerate(names)}}
    return {**bases, **{name: "best" if name == comparison.best.name else "cx" for name in names}}


def _run_styles(content: Content) -> list[str]:
    """Colour of each run: its setting's."""
    styles = _styles(content.comparison) if content.comparison else {}
    if not styles and len(content.runs) <= NUM_COLOURS:
        return [colour(place) for place in range(len(content.runs))]
    return [styles.get(content.settings.get(run.path, ""), "cx") for run in content.runs]


def _scores(content: Content, comparison: Comparison) -> str:
    metric, styles = comparison.metric(comparison.primary), _styles(comparison)
    ranked = sorted(metric.scores, key=lambda score: -score.value)
    rows = [
        Interval(s.setting, s.value, s.low, s.high, s.runs if len(s.runs) > 1 else (), styles[s.setting])
        for s in ranked
    ]
    label = f"{metric.name}, percent, 95 % interval"
    figures = [_figure(interval_chart(label, rows, x_label=label), f"{label}; small rings are single seeds.")]
    for words, name, shown in (
        ("training time", "train_seconds", seconds_words),
        ("trained numbers", "trainable", number_words),
        ("result on disk, MiB", "adapter_bytes", lambda value: f"{value:.3g}"),
    ):
        scale = 2**-20 if name == "adapter_bytes" else 1.0
        points = [
            Series(setting.name, ((cost * scale, metric.score(setting.name).value),), styles[setting.name])
            for setting in comparison.settings
            if (cost := getattr(setting.cost, name)) is not None
        ]
        if len({point.points[0][0] for point in points}) > 1:
            chart = scatter_chart(
                f"{metric.name} against {words}",
                points,
                x_label=words,
                y_label=f"{metric.name}, percent",
                x_words=shown,
            )
            figures.append(_figure(chart, f"Quality against {words}."))
    return (
        f'<div class="charts">{"".join(figures)}</div>'
        + html_table(tables.settings_table(comparison))
        + (html_table(tables.pairs_table(comparison)) if metric.pairs else "")
    )


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _curves(content: Content) -> str:
    runs: Sequence[RunFacts] = content.runs
    figures, titles, styles = [], run_titles(runs), _run_styles(content)
    for name, words in (("loss", "Training loss"), ("eval_loss", "Evaluation loss")):
        found = [
            (title, [(float(line["step"]), float(line[name])) for line in run.metrics if name in line])
            for run, title in zip(runs, titles, strict=True)
        ]
        lines = []
        for place, (title, points) in enumerate(found):
            if not points:
                continue
            style = styles[place]
            limit = 60 if name == "loss" else 150
            if name == "loss" and len(runs) == 1 and len(points) > limit:
                lines.append(Series(f"{title}, each logged step", thin(points, 400), f"{style} raw"))
            lines.append(Series(title, thin(points, limit), style))
        if lines:
            is_thinned = any(len(points) > (60 if name == "loss" else 150) for _, points in found)
            caption = f"{words} over optimizer steps{', means over stretches of steps' if is_thinned else ''}."
            figures.append(_figure(line_chart(words, lines, x_label="step", y_label=words.lower()), caption))
    if not figures:
        return ""
    legend = ""
    if 1 < len(runs) <= NUM_COLOURS:
        legend = "".join(
            f'<li><i class="{style}"></i>{escape(title)}</li>' for title, style in zip(titles, styles, strict=True)
        )
        legend = f'<ul class="legend">{legend}</ul>'
    elif len(runs) > NUM_COLOURS:
        legend = '<p class="soft">Point at a line for its run.</p>'
    return legend + f'<div class="charts">{"".join(figures)}</div>'


def _differences(content: Content) -> str:
    comparison = content.comparison
    if comparison is None:
        return ""
    inside = html_table(tables.differences_table(content)) if comparison.differences else ""
    if comparison.environment:
        compared = [run for run in content.runs if run.path in run_values(comparison)]
        inside += html_table(tables.environment_table(comparison, compared))
    return inside


def _importance(content: Content) -> str:
    if not content.importance:
        return ""
    return f'<p class="soft">{escape(IMPORTANCE_WARNING)}</p>' + html_table(tables.importance_table(content))


def _answers(content: Content) -> str:
    columns = content.columns
    total, shown = len(columns[0].answers.rows), shown_rows(columns)
    options = [(index, column.title) for index, column in enumerate(columns)]
    tried = [index for index, column in enumerate(columns) if not column.is_base]
    chosen = (tried[0] if len(tried) > 1 else 0, tried[-1])

    def select(name: str, label: str, at: int) -> str:
        inside = "".join(
            f'<option value="{index}"{" selected" if index == at else ""}>{escape(title)}</option>'
            for index, title in options
        )
        return f'<label>{label}<select id="{name}">{inside}</select></label>'

    filters = (
        ("differ", "A and B differ"),
        ("one", "only one is right"),
        ("wrong", "one or both are wrong"),
        ("both", "both are wrong"),
        ("all", "all rows"),
    )
    start = "differ" if chosen[0] != chosen[1] else "all"
    listed = "".join(
        f'<option value="{value}"{" selected" if value == start else ""}>{words}</option>' for value, words in filters
    )
    left = (
        f'<p class="soft">The first {shown} of {total} rows; all are in the predictions files.</p>'
        if shown < total
        else ""
    )
    return (
        f"{left}<noscript><p>This table needs JavaScript; the rest of the page does not.</p></noscript>"
        f'<div class="controls">{select("first", "A", chosen[0])}{select("second", "B", chosen[1])}'
        f'<label>rows<select id="filter">{listed}</select></label>'
        '<label>search<input id="search" type="search"></label><span id="answer-count" role="status"></span></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Answers side by side"><table class="answers">'
        "<caption>✓ equals the label, ✗ does not</caption>"
        '<thead><tr id="answer-head"></tr></thead><tbody id="answer-rows"></tbody></table></div>'
        '<button class="more" id="more" hidden>50 more rows</button>'
        f'<script type="application/json" id="answer-data">{answers_json(columns)}</script>'
    )
