"""Charts as inline SVG, drawn here: no script, no network, a few kilobytes each. Colours come from the page's style."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 40
MAX_POINTS = 150
# Beyond this many, colours no longer tell apart.
NUM_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Series:
    """A named line or set of points.

    Attributes:
        name: Shown on pointing at it.
        points: x and y.
        style: CSS classes.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic scale.

    Attributes:
        low: Value at its beginning.
        high: Value at its end.
        ticks: Values with a label.
        is_log: Whether equal ratios take equal space.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """0 at the beginning, 1 at the end."""
        if self.is_log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def colour(place: int) -> str:
    """CSS class of the series at a place."""
    return f"c{place}" if place < NUM_COLOURS else "cx"


def linear_axis(values: Sequence[float], *, from_zero: bool = False) -> Axis:
    """An axis over values with about five round ticks."""
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(i * step for i in range(first, last + 1)))


def log_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis over positive values; ticks at 1, 2 and 5."""
    low, high = min(values), max(values)
    low, high = low / 1.25, high * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), is_log=True)


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> tuple[tuple[float, float], ...]:
    """At most `limit` points: means over equal stretches."""
    if len(points) <= limit:
        return tuple(points)
    edges = [round(i * len(points) / limit) for i in range(limit + 1)]
    parts = [points[start:stop] for start, stop in pairwise(edges)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)


def line_chart(title: str, lines: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Lines over a common x axis; a series of one point is a dot."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_axis, y_axis = linear_axis(xs), linear_axis(ys, from_zero=min(ys) < 0.5 * max(ys))
    height = 280
    place = _placer(x_axis, y_axis, height)
    marks = []
    for line in lines:
        spots = [place(x, y) for x, y in line.points]
        name = f"<title>{escape(line.name)}</title>"
        if len(spots) == 1:
            marks.append(
                f'<circle class="{line.style} dot" cx="{spots[0][0]:.1f}" cy="{spots[0][1]:.1f}" r="3">{name}</circle>'
            )
            continue
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        marks.append(f'<path class="{line.style} line" d="M{path}">{name}</path>')
    return _frame(title, height, _axes(x_axis, y_axis, height, x_label, y_label) + "".join(marks))


def scatter_chart(
    title: str, points: Sequence[Series], *, x_label: str, y_label: str, x_words: Callable[[float], str]
) -> str:
    """Named points; x is logarithmic where it spans much."""
    xs = [x for series in points for x, _ in series.points]
    ys = [y for series in points for _, y in series.points]
    x_axis = log_axis(xs) if min(xs) > 0 and max(xs) > 4 * min(xs) else linear_axis(xs)
    y_axis = linear_axis(ys)
    height = 280
    place = _placer(x_axis, y_axis, height)
    marks = []
    for series in points:
        for x, y in series.points:
            at_x, at_y = place(x, y)
            marks.append(
                f'<circle class="{series.style} dot" cx="{at_x:.1f}" cy="{at_y:.1f}" r="5">'
                f"<title>{escape(series.name)}: {escape(x_words(x))}, {y:.1f}</title></circle>"
            )
        if len(points) <= NUM_COLOURS:
            at_x, at_y = place(*series.points[-1])
            anchor = "end" if at_x > WIDTH * 0.7 else "start"
            shift = -8 if anchor == "end" else 8
            marks.append(
                f'<text class="name" x="{at_x + shift:.1f}" y="{at_y + 4:.1f}" text-anchor="{anchor}">'
                f"{escape(_cut(series.name, 30))}</text>"
            )
    return _frame(title, height, _axes(x_axis, y_axis, height, x_label, y_label, x_words) + "".join(marks))


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval.

    Attributes:
        name: Beside it.
        value: The dot.
        low: Beginning of the line.
        high: Its end.
        singles: Smaller dots, such as single runs.
        style: CSS classes.
    """

    name: str
    value: float
    low: float
    high: float
    singles: tuple[float, ...]
    style: str


def interval_chart(title: str, rows: Sequence[Interval], *, x_label: str) -> str:
    """Values below each other with their intervals."""
    left, step = 190, 24
    axis = linear_axis([value for row in rows for value in (row.low, row.high)])
    height = TOP + step * len(rows) + BOTTOM
    marks = []

    def x(value: float) -> float:
        return left + axis.place(value) * (WIDTH - left - RIGHT - 46)

    for tick in axis.ticks:
        marks.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">'
            f"{_number(tick)}</text>"
        )
    for index, row in enumerate(rows):
        y = TOP + step * (index + 0.5)
        singles = "".join(
            f'<circle class="{row.style} single" cx="{x(single):.1f}" cy="{y:.1f}" r="2.5"/>' for single in row.singles
        )
        marks.append(
            f"<g><title>{escape(row.name)}: {row.value:.2f} ({row.low:.2f} to {row.high:.2f})</title>"
            f'<text class="name" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(_cut(row.name, 26))}</text>'
            f'<line class="{row.style} bar" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="{row.style} dot" cx="{x(row.value):.1f}" cy="{y:.1f}" r="4.5"/>{singles}'
            f'<text class="tick" x="{WIDTH - RIGHT}" y="{y + 4:.1f}" text-anchor="end">{row.value:.1f}</text></g>'
        )
    middle = (left + WIDTH - RIGHT - 46) / 2
    label = f'<text class="axis" x="{middle:.1f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
    return _frame(title, height, "".join(marks) + label)


def _placer(x_axis: Axis, y_axis: Axis, height: int) -> Callable[[float, float], tuple[float, float]]:
    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x_axis.place(x) * (WIDTH - LEFT - RIGHT),
            height - BOTTOM - y_axis.place(y) * (height - TOP - BOTTOM),
        )

    return place


def _axes(
    x_axis: Axis,
    y_axis: Axis,
    height: int,
    x_label: str,
    y_label: str,
    x_words: Callable[[float], str] | None = None,
) -> str:
    place = _placer(x_axis, y_axis, height)
    parts = []
    for tick in y_axis.ticks:
        _, y = place(x_axis.low, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in x_axis.ticks:
        x, _ = place(tick, y_axis.low)
        words = (x_words or _number)(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{words}</text>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="axis" transform="translate(12 {(height - BOTTOM + TOP) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _frame(title: str, height: int, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">{inside}</svg>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
