"""`evaluation_results.json`: every number with its definition, what it belongs to, and what could not be measured.

The file is whole at every moment and is written again after each part, so that what was measured survives whatever
comes later. A part that failed stands in it with its reason; the whole is then `partial`.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from loratory.errors import DataError
from loratory.evaluation.measure import Measure
from loratory.run.commit import write_text

SCHEMA = 1
PartStatus = Literal["complete", "partial", "failed", "skipped", "not_run"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that could not be measured.

    Attributes:
        on: The text, task, batch or row file; empty when it is the whole part.
        reason: Why, and what to do.
        exit_code: Exit code of this kind of error.
    """

    on: str
    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class DataUsed:
    """Data that numbers were measured on.

    Attributes:
        name: As in the measures' `on`.
        source: File, folder or hub name.
        sha256: Fingerprint of the content: of one file or text, or by file.
        notes: What a reader should know: the rows left out, the split, requests that were cut.
    """

    name: str
    source: str
    sha256: str | dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of metric.

    Attributes:
        status: complete; partial (some of it failed); failed (all of it); skipped (not asked for or nothing to measure
            on, with the reason in `note`); not_run (the evaluation has not come to it).
        seconds: Wall time.
        measures: The numbers.
        data: What they were measured on.
        faults: What could not be measured.
        note: Why it was skipped; how it was computed.
    """

    status: PartStatus = "not_run"
    seconds: float = 0.0
    measures: tuple[Measure, ...] = ()
    data: tuple[DataUsed, ...] = ()
    faults: tuple[Fault, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class SubjectCard:
    """What the numbers belong to.

    Attributes:
        kind: run, adapter or model.
        path: As the user named it.
        base: The model, or the adapter's base.
        base_identity: sha256 over the base's weights.
        adapter: The adapter's folder, or None.
        adapter_sha256: Of its weights, or None.
        is_fused: Whether the adapter was merged into the weights in memory.
        architecture: The model's class.
        dtype: Precision of the weights.
        quantization: 4 or 8 bits, or None.
        template: Prompt template for rows with answers.
    """

    kind: str
    path: str
    base: str
    base_identity: str
    adapter: str | None
    adapter_sha256: str | None
    is_fused: bool
    architecture: str
    dtype: str
    quantization: str | None
    template: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Where it was measured.

    Attributes:
        versions: Installed packages.
        git_revision: Of this code's checkout, or None.
        python: Its version.
        platform: Operating system.
        machine: Processor architecture.
        device: cpu or the GPU's name.
        cpu_count: Processors of the machine.
        threads: CPU threads that torch used.
    """

    versions: dict[str, str]
    git_revision: str | None
    python: str
    platform: str
    machine: str
    device: str
    cpu_count: int | None
    threads: int


@dataclass(frozen=True, slots=True)
class Results:
    """The content of `evaluation_results.json`.

    Attributes:
        schema: Version of this form.
        status: complete when every part that was asked for is; else partial.
        created: UTC time of the beginning, ISO 8601.
        subject: What the numbers belong to.
        environment: Where they were measured.
        settings: The resolved sections `evaluation` and `predict`.
        parts: By name: ppl, zero_shot, text, speed, memory.
    """

    schema: int
    status: Literal["complete", "partial"]
    created: str
    subject: SubjectCard
    environment: Environment
    settings: dict[str, Any]
    parts: dict[str, Part] = field(default_factory=dict)

    def with_part(self, name: str, part: Part) -> "Results":
        """The same with one part filled in and the status that follows from all."""
        parts = {**self.parts, name: part}
        done = all(each.status in ("complete", "skipped") for each in parts.values())
        return replace(self, parts=parts, status="complete" if done else "partial")

    @property
    def exit_code(self) -> int:
        """0 when complete, else the exit code of the first fault, or 1."""
        if self.status == "complete":
            return 0
        return next((fault.exit_code for part in self.parts.values() for fault in part.faults), 1)


_FORM = TypeAdapter(Results)


def results_schema() -> dict[str, Any]:
    """JSON schema of the file."""
    return {**_FORM.json_schema(), "title": "evaluation_results.json of loratory"}


def write_results(path: Path, results: Results) -> None:
    """Write the file; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(path: Path) -> Results:
    """Read the file back, strictly.

    Raises:
        DataError: It is missing, not JSON, or not of this form.
    """
    try:
        return _FORM.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not evaluation results: {place}: {first['msg']}") from error
