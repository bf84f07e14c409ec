"""A comparison's result in words: who is better, by how much, and what it would take to know."""

from collections.abc import Sequence

from loratory.compare.result import MetricComparison, Pair, Setting

_SHOWN_ROWS = 1_000_000
# A sentence for each pair up to so many pairs; beyond, only for the closest ones.
_MAX_SENTENCES = 15
_NUM_CLOSEST = 5


def verdict(metric: MetricComparison) -> tuple[str, ...]:
    """One sentence for each pair; for the closest ones and the rest together where pairs are many."""
    pairs = metric.pairs
    if len(pairs) <= _MAX_SENTENCES:
        return tuple(_sentence(pair, metric, len(pairs)) for pair in pairs)
    ordered = sorted(pairs, key=lambda pair: abs(pair.difference))
    shown = tuple(_sentence(pair, metric, len(pairs)) for pair in ordered[:_NUM_CLOSEST])
    rest = ordered[_NUM_CLOSEST:]
    num_separable = sum(pair.is_separable for pair in rest)
    return (
        *shown,
        f"the other {len(rest)} pairs lie {abs(rest[0].difference):.1f} to {abs(rest[-1].difference):.1f} points "
        f"apart; {'all' if num_separable == len(rest) else num_separable} of them are separable",
    )


def seed_notes(metric: MetricComparison, settings: Sequence[Setting]) -> tuple[str, ...]:
    """What seeds do to the primary metric, or that it is not known."""
    scores = [metric.score(setting.name) for setting in settings if not setting.is_base]
    several = [score for score in scores if score.seed_sd is not None]
    if not scores:
        return ()
    if not several:
        return (
            "one seed for each setting: how much another seed would change is not known; train again with other "
            "train.seed values to know",
        )
    spread = ", ".join(
        f"{score.setting} {score.seed_sd:.1f} points over {len(score.runs)} seeds "
        f"({min(score.runs):.1f} to {max(score.runs):.1f})"
        for score in several
        if score.seed_sd is not None
    )
    notes = [f"standard deviation between seeds: {spread}"]
    largest_sd = max(score.seed_sd for score in several if score.seed_sd is not None)
    values = [score.value for score in scores]
    gap = max(values) - min(values)
    if len(values) > 1 and largest_sd > 0 and gap < 2 * largest_sd:
        notes.append(
            f"seeds matter here: they move {metric.name} by {largest_sd:.1f} points, the settings by {gap:.1f} at most"
        )
    single = [score.setting for score in scores if score.seed_sd is None]
    if single:
        notes.append(f"only one seed, so its own variation is not in the intervals: {', '.join(single)}")
    return tuple(notes)


def _sentence(pair: Pair, metric: MetricComparison, num_pairs: int) -> str:
    if pair.is_separable:
        better, worse = (pair.second, pair.first) if pair.difference > 0 else (pair.first, pair.second)
        holm = f", Holm over {num_pairs} pairs" if num_pairs > 1 else ""
        return (
            f"{better} better than {worse} by {abs(pair.difference):.1f} ± {pair.margin:.1f} points of {metric.name} "
            f"(p {_p(pair.p_holm)}{holm}, n = {metric.num_rows})"
        )
    start = (
        f"{pair.second} and {pair.first} not separable with n = {metric.num_rows} (difference {pair.difference:+.1f} "
        f"points of {metric.name}, 95 % {pair.low:+.1f} to {pair.high:+.1f}, p {_p(pair.p_holm)})"
    )
    return f"{start}; {_what_it_takes(pair, metric)}"


def _what_it_takes(pair: Pair, metric: MetricComparison) -> str:
    if pair.needs_seeds:
        return "seeds vary more than that, so more seeds are needed, not more rows"
    if pair.wins == 0 and pair.losses == 0:
        return "they are equal on every row"
    if pair.detectable is None:
        return "how many rows would be needed cannot be said for this metric"
    if pair.rows_needed is None:
        return f"a difference of {pair.detectable:.1f} points would have shown"
    if pair.rows_needed > _SHOWN_ROWS:
        return f"no number of rows would show it; a difference of {pair.detectable:.1f} points would have shown"
    if pair.rows_needed <= metric.num_rows:
        return "the rows are at the edge of what such a difference needs; take more"
    return f"about {_rounded(pair.rows_needed):,} rows would be needed if the difference is what it seems"


def _rounded(rows: int) -> int:
    """Two leading digits: more would pretend to know."""
    unit = int(10 ** max(0, len(str(rows)) - 2))
    return -(-rows // unit) * unit


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
