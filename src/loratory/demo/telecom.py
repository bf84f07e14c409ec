"""The telecom customer-service data set of the demo: questions in, answer codes out.

It is synthetic and written for this project; no person and no operator stands behind it. One seed gives the same
bytes on every machine. Whatever the training rows are cut to, each answer keeps its share of them.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.data.quota import largest_remainder, nested_quotas
from loratory.demo.intents import Goal, goals
from loratory.demo.phrasing import phrase
from loratory.run.commit import write_text

TRAIN_ROWS = 1600
TEST_ROWS = 200
TRAIN_CUTS = (400, 100)
TEST_CUT = 100
DEFAULT_SEED = 2024

_MAX_TRIES = 10_000

CARD = """# Telecom customer service (synthetic)

Questions to an invented mobile operator, each answered with the codes that its system expects.

| file | rows | answers |
|---|---|---|
{table}

- Form: Alpaca rows. `instruction` is the customer's question, `input` a line of account context (mostly empty),
  `output` one or more codes joined with `|`, such as `cancel_68` or `intro_111|9.9|11.9|activate_111`; prices stand
  between the codes. `dataset_info.json` registers the files with their columns.
- Made by `loratory.demo.telecom`, seed {seed}; the same seed gives the same bytes. No real customers, products or
  prices.
- Shares of the answers fall like Zipf's law within each family of requests. The smaller cuts keep the shares
  within one row and are nested: every row of `train_100.json` is in `train_400.json`, and that in `train.json`.
- No question appears twice, in or across training and test rows. Both come from one generator, so a test score says how
  well the codes were learnt, not how a model would do with real customers.
- A few questions are ambiguous on purpose ("my data add-on" when there are two), so a perfect score is not to be had.

Licence: CC0 1.0 (public domain dedication).
"""


@dataclass(frozen=True, slots=True)
class TelecomFiles:
    """Where `generate_telecom` put its files.

    Attributes:
        train: All training rows.
        test: All test rows.
        train_cuts: Number of rows -> file, for the smaller, nested training sets.
        test_cut: A smaller test set.
        dataset_info: Register of the data sets with column mapping.
        card: The data card.
    """

    train: Path
    test: Path
    train_cuts: Mapping[int, Path]
    test_cut: Path
    dataset_info: Path
    card: Path


@dataclass(frozen=True, slots=True)
class TelecomRow:
    """One Alpaca row."""

    instruction: str
    input: str
    output: str


def generate_telecom(directory: Path, *, seed: int = DEFAULT_SEED) -> TelecomFiles:
    """Write the data set and its smaller cuts to a folder, replacing files of the same names.

    Args:
        directory: Target folder, created if missing.
        seed: The data set is a pure function of it.

    Returns:
        The paths of all files.
    """
    train, test = telecom_rows(seed=seed)
    sets: dict[str, list[TelecomRow]] = {"train": train, "test": test}
    for role, rows, sizes in (("train", train, TRAIN_CUTS), ("test", test, (TEST_CUT,))):
        for size, quotas in nested_quotas(Counter(row.output for row in rows), sizes).items():
            sets[f"{role}_{size}"] = _first_rows(rows, quotas)

    directory.mkdir(parents=True, exist_ok=True)
    for name, members in sets.items():
        write_text(directory / f"{name}.json", _rows_text(members))
    info = {
        f"telecom_{name}": {
            "file_name": f"{name}.json",
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output"},
        }
        for name in sets
    }
    write_text(directory / "dataset_info.json", json.dumps(info, indent=2) + "\n")
    table = "\n".join(f"| `{n}.json` | {len(m)} | {len({row.output for row in m})} |" for n, m in sets.items())
    write_text(directory / "README.md", CARD.format(table=table, seed=seed))
    return TelecomFiles(
        train=directory / "train.json",
        test=directory / "test.json",
        train_cuts={size: directory / f"train_{size}.json" for size in TRAIN_CUTS},
        test_cut=directory / f"test_{TEST_CUT}.json",
        dataset_info=directory / "dataset_info.json",
        card=directory / "README.md",
    )


def telecom_rows(*, seed: int = DEFAULT_SEED) -> tuple[list[TelecomRow], list[TelecomRow]]:
    """Return training and test rows: no prompt twice, and every test answer also among the training rows."""
    rng = random.Random(seed)
    wanted = goals()
    quotas = largest_remainder([goal.share for goal in wanted], TRAIN_ROWS + TEST_ROWS)
    seen: set[str] = set()
    rows = [row for goal, quota in zip(wanted, quotas, strict=True) for row in _unique_rows(goal, quota, rng, seen)]
    _shuffle(rows, rng)
    test = cut(rows, TEST_ROWS)
    chosen = set(test)
    return [row for row in rows if row not in chosen], test


def cut(rows: Sequence[TelecomRow], size: int) -> list[TelecomRow]:
    """Return `size` rows in their order such that each answer keeps its share, by largest remainder."""
    counts = Counter(row.output for row in rows)
    return _first_rows(rows, dict(zip(counts, largest_remainder(list(counts.values()), size), strict=True)))


def _first_rows(rows: Sequence[TelecomRow], quotas: Mapping[str, int]) -> list[TelecomRow]:
    """The first rows of each answer, as many as its quota, in their order."""
    left = dict(quotas)
    kept = []
    for row in rows:
        if left[row.output]:
            left[row.output] -= 1
            kept.append(row)
    return kept


def _unique_rows(goal: Goal, count: int, rng: random.Random, seen: set[str]) -> Iterable[TelecomRow]:
    """Yield rows whose prompts are new up to case and spaces; `seen` collects them across goals."""
    for _ in range(count):
        for _ in range(_MAX_TRIES):
            question, context = phrase(goal, rng)
            key = " ".join(f"{question}\n{context}".split()).casefold()
            if key not in seen:
                seen.add(key)
                yield TelecomRow(question, context, goal.answer)
                break
        else:
            raise AssertionError(f"{goal.answer}: too few phrasings for {count} rows")


def _shuffle(rows: list[TelecomRow], rng: random.Random) -> None:
    """Fisher and Yates on `rng.random()`, whose sequence no Python version changes."""
    for i in range(len(rows) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        rows[i], rows[j] = rows[j], rows[i]


def _rows_text(rows: Sequence[TelecomRow]) -> str:
    lines = (
        json.dumps({"instruction": row.instruction, "input": row.input, "output": row.output}, ensure_ascii=False)
        for row in rows
    )
    return "[\n" + ",\n".join(lines) + "\n]\n"
