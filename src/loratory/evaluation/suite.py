"""Running the parts of an evaluation one after the other and keeping every result as soon as it is there."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from loratory.errors import ConfigError, suggest
from loratory.evaluation.part_log import PartLog
from loratory.evaluation.parts import PARTS, Task
from loratory.evaluation.results import SCHEMA, Environment, Part, Results, SubjectCard, write_results
from loratory.evaluation.subject import Subject
from loratory.run.provenance import git_revision, installed_versions
from loratory.tree.eligibility import base_of


def part_names(asked: str) -> tuple[str, ...]:
    """Names of parts out of a text with commas; `all` is all of them.

    Raises:
        ConfigError: A name is unknown, or none was given.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    known = ("all", *PARTS)
    faults = [
        f"metrics: unknown '{name}'; known: {', '.join(known)}.{suggest(name, known)}"
        for name in names
        if name not in known
    ]
    if not names:
        faults.append(f"metrics: none was named; known: {', '.join(known)}")
    if faults:
        raise ConfigError(faults)
    return tuple(name for name in PARTS if name in names or "all" in names)


def run_suite(subject: Subject, task: Task, *, parts: Sequence[str], output: Path) -> Results:
    """Measure the parts and write the results file after each item.

    Args:
        subject: What is measured.
        task: On what and how.
        parts: Names out of `PARTS`.
        output: The results file.

    Returns:
        The results as they stand in the file. A part that failed is in them with its reason; an error that is no
        user's (a bug) leaves the file as it was after the last item and is raised.
    """
    results = Results(
        schema=SCHEMA,
        status="partial",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        subject=_card(subject),
        environment=_environment(subject),
        settings={
            "evaluation": task.evaluation.model_dump(mode="json"),
            "predict": task.predict.model_dump(mode="json"),
        },
    )
    for name in PARTS:
        waiting = Part() if name in parts else Part("skipped", note="not asked for")
        results = results.with_part(name, waiting)
    write_results(output, results)
    for name in parts:

        def publish(part: Part, name: str = name) -> None:
            nonlocal results
            results = results.with_part(name, part)
            write_results(output, results)

        log = PartLog(publish)
        PARTS[name](subject, task, log)
        log.finish()
    return results


def _card(subject: Subject) -> SubjectCard:
    source = subject.source
    return SubjectCard(
        kind=source.kind,
        path=source.path,
        base=source.base.model_name_or_path,
        base_identity=subject.base_identity,
        adapter=None if source.adapter_dir is None else str(source.adapter_dir),
        adapter_sha256=subject.adapter_sha256,
        is_fused=subject.fused is not None,
        architecture=type(base_of(subject.model)).__name__,
        dtype=str(subject.model.dtype).removeprefix("torch."),
        quantization=None if source.quantization is None else _quantization(source.quantization.model_dump()),
        template=source.template,
    )


def _quantization(values: dict[str, object]) -> str | None:
    if values.get("load_in_4bit"):
        return "4 bits"
    return "8 bits" if values.get("load_in_8bit") else None


def _environment(subject: Subject) -> Environment:
    device = next(subject.model.parameters()).device
    return Environment(
        versions=installed_versions(),
        git_revision=git_revision(),
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        cpu_count=os.cpu_count(),
        threads=torch.get_num_threads(),
    )
