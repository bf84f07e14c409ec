"""What a zero-shot task yields: its scores with error bars, and all that is needed to get them again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        value: Percent of documents, as lm-eval scored them.
        standard_error: lm-eval's standard error of the mean, in percent points; None for a single document.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        n: Documents.
        definition: What was measured, in words, with lm-eval's version.
    """

    value: float
    standard_error: float | None
    low: float
    high: float
    n: int
    definition: str


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task's documents came from.

    Attributes:
        kind: "local" files or the "hub".
        location: Folder, or name of the data set on the hub.
        split: Split that is scored.
        fewshot_split: Split that few-shot examples are drawn from.
        sha256: Local: checksum of each file read, by name. Hub: checksum of the scored split's rows as JSON lines.
    """

    kind: Literal["local", "hub"]
    location: str
    split: str
    fewshot_split: str
    sha256: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Scores of one task.

    Attributes:
        task: lm-eval's name of the task.
        task_version: lm-eval's version of the task's definition.
        lm_eval_version: Version of the library.
        scores: Metrics by name: `acc`, and `acc_norm` where the task defines it.
        num_fewshot: Examples in front of each document.
        limit: Only this many documents, the first ones; None: all.
        seed: Seed of the choice of few-shot examples and of the bootstrap.
        num_truncated: Requests whose context lost tokens on the left because it was longer than the model's.
        source: The documents.
        scorer_path: "padded", "tree" or "fused": how the likelihoods were computed.
        duration_s: Wall time of the task, without loading it.
    """

    task: str
    task_version: str
    lm_eval_version: str
    scores: Mapping[str, TaskScore]
    num_fewshot: int
    limit: int | None
    seed: int
    num_truncated: int
    source: TaskSource
    scorer_path: str
    duration_s: float
