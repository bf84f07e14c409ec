"""The smallest changes that make a run fit: the loss stays as it is, if that will do."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from loratory.config import RunConfig
from loratory.errors import AdapterError, ModelError
from loratory.plan.workbench import Place, Workbench

_MOST_TOGETHER = 3
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Advice:
    """One way to make the run fit.

    Attributes:
        overrides: `section.key=value`, as the command line takes them.
        cost: What it costs, in words.
        peak_bytes: What it leads to.
    """

    overrides: tuple[str, ...]
    cost: str
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Change:
    key: str
    value: Any
    rank: int
    cost: str

    @property
    def override(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.key}={value}"


def advise(bench: Workbench, config: RunConfig, place: Place, *, limit_bytes: int) -> tuple[Advice, ...]:
    """Ways to stay below the limit, the mildest first; empty when there is none."""
    found: list[tuple[int, Advice]] = []
    used: list[frozenset[str]] = []
    changes = _mildest(bench, config, place, limit_bytes)
    for number in range(1, _MOST_TOGETHER + 1):
        for together in combinations(changes, number):
            keys = frozenset(change.key for change in together)
            if len(keys) < number or any(earlier <= keys for earlier in used):
                continue
            peak = _peak(bench, _changed(config, together), place)
            if peak is not None and peak <= limit_bytes:
                used.append(keys)
                cost = "; ".join(dict.fromkeys(change.cost for change in together))
                advice = Advice(tuple(change.override for change in together), cost, peak)
                found.append((sum(change.rank for change in together), advice))
        if found:
            break
    return tuple(advice for _, advice in sorted(found, key=lambda pair: pair[0])[:_SHOWN])


def _mildest(bench: Workbench, config: RunConfig, place: Place, limit_bytes: int) -> list[_Change]:
    """Of each kind of change the smallest that fits alone; else its strongest, to go together with others."""
    kinds: dict[str, list[_Change]] = {}
    for change in _changes(bench, config):
        kinds.setdefault(change.key, []).append(change)
    chosen = []
    for steps in kinds.values():
        fitting = next(
            (s for s in steps if (p := _peak(bench, _changed(config, [s]), place)) is not None and p <= limit_bytes),
            None,
        )
        chosen.append(fitting or steps[-1])
    return sorted(chosen, key=lambda change: change.rank)


def _changes(bench: Workbench, config: RunConfig) -> Iterator[_Change]:
    section = config.train
    longest = max(len(s) for row in bench.rows.train for s in row.sequences)
    rows = section.micro_batch_size or section.batch_size
    same = "the loss stays the same; slower"
    while rows > 1:
        rows //= 2
        yield _Change("train.micro_batch_size", rows, 1, same)
    if not section.gradient_checkpointing:
        yield _Change("train.gradient_checkpointing", True, 2, "the loss stays the same; about a third slower")
    if config.adapter.method == "full":
        yield _Change("adapter.method", "lora", 8, "trains an adapter instead of all weights")
    elif not config.quantization.is_active:
        yield _Change("quantization.load_in_4bit", True, 4, "the base is rounded to 4 bits; slower")
    rank = config.adapter.rank if config.adapter.method == "lora" else 1
    while rank > 4:
        rank //= 2
        yield _Change("adapter.rank", rank, 6, "a smaller adapter learns less")
    for share in (2, 4):
        if longest // share >= 32:
            yield _Change("data.cutoff_len", longest // share, 7, "long rows lose the start of their prompt")


def _changed(config: RunConfig, changes: "list[_Change] | tuple[_Change, ...]") -> RunConfig:
    for change in changes:
        section, key = change.key.split(".")
        part = getattr(config, section).model_copy(update={key: change.value})
        config = config.model_copy(update={section: part})
    return config


def _peak(bench: Workbench, config: RunConfig, place: Place) -> int | None:
    """Peak of a changed run; rows are cut here, where the file's own were read."""
    try:
        return bench.shortened(config.data.cutoff_len).forecast(config, place).memory.total
    except (AdapterError, ModelError):
        return None
