"""What the data verbs print. Text of rows is never read as markup."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from loratory.data.health.ledger import Finding
    from loratory.data.health.profile import Spread
    from loratory.data.health.report import HealthReport
    from loratory.data.health.tokens import TokenReport
    from loratory.data.preview import Example
    from loratory.data.subset import SubsetResult
    from loratory.data.time_estimate import TimeEstimate

_SHOWN_ANSWERS = 10
_SHOWN_CLASSES = 12


def show_health(report: "HealthReport") -> None:
    """Print a doctor's report: what was found, where, and what the rows look like."""
    console = _console()
    console.print(
        f"{report.rows_read:,} rows read, {report.rows_kept:,} usable; {report.rows_per_s:,.0f} rows/s", markup=False
    )
    _print_findings(report, console)
    _print_spreads(report.lengths, console)
    scripts = ", ".join(f"{name} {count / max(report.rows_kept, 1):.1%}" for name, count in report.scripts.items())
    console.print(f"scripts of the prompts: {scripts}", markup=False)
    answers = report.answers
    if answers is not None:
        console.print(
            f"{answers.distinct:,} different answers, the rarest in {answers.rarest_rows:,} rows; entropy "
            f"{answers.entropy_bits:.2f} of at most {answers.max_entropy_bits:.2f} bits"
            + (f"; {answers.unseen_in_train} test answers are new" if answers.unseen_in_train is not None else ""),
            markup=False,
        )
        for answer, count in list(answers.top.items())[:_SHOWN_ANSWERS]:
            console.print(f"  {count / report.rows_kept:6.1%}  {answer}", markup=False)
    if report.tokens is not None:
        _print_tokens(report.tokens, console)


def show_tokens(report: "TokenReport", estimate: "TimeEstimate | None", num_epochs: float) -> None:
    """Print token figures and a time estimate."""
    console = _console()
    _print_tokens(report, console)
    if estimate is None:
        console.print("time to train: unknown; give --run of a former run for a measured rate")
        return
    low, high = _duration(estimate.low_s), _duration(estimate.high_s)
    console.print(f"time to train {num_epochs:g} epochs: {low} to {high} ({estimate.basis})", markup=False)


def show_subsets(result: "SubsetResult") -> None:
    """Print the sets that were cut."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table("set", "rows", "classes", "largest deviation from share", "file")
    for cut in result.cuts:
        held = sum(count > 0 for count in cut.counts.values())
        table.add_row(
            cut.name,
            f"{len(cut.rows):,}",
            f"{held} of {len(cut.available)}",
            f"{cut.deviation:.2f} rows",
            Text(str(result.files[cut.name])),
        )
    console.print(table)
    if result.cuts:
        largest = result.cuts[-1]
        ranked = sorted(largest.counts.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{name} {count}" for name, count in ranked[:_SHOWN_CLASSES])
        more = f", … {len(ranked) - _SHOWN_CLASSES} more" if len(ranked) > _SHOWN_CLASSES else ""
        console.print(f"{largest.name}: {shown}{more}", markup=False, highlight=False)
    if result.withheld:
        console.print(f"{result.withheld:,} rows share a prompt with a test row and are in no set")
    if result.skipped:
        console.print(f"{result.skipped:,} bad rows were left out")
    console.print(f"manifest: {result.manifest}", markup=False)


def show_example(example: "Example", *, cutoff_len: int) -> None:
    """Print one row token by token: trained tokens in green, masked ones dim; without colour, trained in brackets."""
    from rich.text import Text

    console = _console()
    text = Text()
    for token in example.tokens:
        shown = token.text.replace("\n", "⏎\n")
        if console.color_system is None:
            text.append(f"[{shown}]" if token.weight else shown)
            text.append("" if shown.endswith("\n") else "·")
        else:
            text.append(shown, style="bold green" if token.weight else "dim")
            text.append("" if shown.endswith("\n") else "·", style="blue")
    over = f", {len(example.tokens) - cutoff_len} over the cut-off" if len(example.tokens) > cutoff_len else ""
    legend = "[trained]" if console.color_system is None else "green is trained"
    console.print(
        f"{example.place}: {len(example.tokens)} tokens, {example.prompt_length} of them prompt, "
        f"{example.num_supervised} trained{over} ({legend}, · ends a token)",
        markup=False,
        highlight=False,
    )
    console.print(text)
    console.print()


def _print_findings(report: "HealthReport", console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    limits = report.limits
    table = Table("finding", "rows", "allowed", "examples")

    def add(name: str, count: int, allowed: float | None, examples: "tuple[str, ...]") -> None:
        shown = "any" if allowed is None else f"{allowed:.1%}" if 0 < allowed < 1 else f"{allowed:g}"
        table.add_row(name, f"{count:,}", shown, Text("\n".join(examples[:3])))

    for reason, count in report.bad_rows.items():
        add(f"bad row: {reason}", count, limits.bad_rows, report.bad_examples[reason])
    if not report.bad_rows:
        add("bad rows", 0, limits.bad_rows, ())
    findings: dict[str, tuple[Finding | None, float | None]] = {
        "duplicates": (report.duplicates, limits.duplicates),
        "near-duplicates": (report.near_duplicates, limits.near_duplicates),
        "conflicting answers": (report.conflicts, limits.conflicts),
        "control markers in text": (report.markers, limits.markers),
        "odd characters": (report.odd_characters, None),
        "placeholder answers": (report.placeholders, None),
    }
    for name, (finding, allowed) in findings.items():
        if finding is not None:
            add(name, finding.count, allowed, finding.examples)
    leakage = report.leakage
    if leakage is not None:
        kinds = f"{leakage.exact} exact, {leakage.normalised} same words, {leakage.ngram} 13 words in a row"
        add(f"leaked test rows ({kinds})", leakage.count, limits.leakage, leakage.examples)
        if report.near_duplicates is not None:
            add("test rows that resemble a row", leakage.near, limits.near_leakage, leakage.near_examples)
        if report.bad_test_rows:
            add("bad test rows", report.bad_test_rows, None, ())
    tokens = report.tokens
    if tokens is not None:
        add(f"longer than {tokens.cutoff_len} tokens", tokens.over_cutoff.count, limits.truncated, ())
        add("nothing to train on", tokens.unsupervised.count, 0, tokens.unsupervised.examples)
        add("refused by the template", tokens.refused.count, 0, tokens.refused.examples)
    console.print(table)


def _print_spreads(spreads: "Mapping[str, Spread]", console: "Console") -> None:
    from rich.table import Table

    table = Table("length", "least", "median", "95 %", "most", "rows up to a length")
    for name, spread in spreads.items():
        bins = "  ".join(f"≤{edge}: {count:,}" for edge, count in spread.histogram.items())
        table.add_row(
            name.replace("_", " "),
            *(f"{n:,}" for n in (spread.minimum, spread.median, spread.p95, spread.maximum)),
            bins,
        )
    console.print(table)


def _print_tokens(report: "TokenReport", console: "Console") -> None:
    console.print(
        f"template {report.template}: {report.num_tokens:,} tokens in {report.rows:,} rows, "
        f"{report.num_supervised:,} trained ({report.supervised_share:.1%})",
        markup=False,
    )
    if report.lengths is not None:
        _print_spreads({"tokens": report.lengths}, console)
    over = report.over_cutoff
    if over.count:
        console.print(
            f"{over.count:,} rows are longer than data.cutoff_len {report.cutoff_len}; in {report.answers_cut:,} the "
            f"answer alone does not fit. {'; '.join(over.examples)}",
            markup=False,
        )


def _console() -> "Console":
    from rich.console import Console

    # Wide enough for places in a log; a terminal has its own width.
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
