"""How fast a model answers: prefill and decoding rates and latencies of loratory's own generation loop.

Not a benchmark of kernels: what is timed is what `loratory predict` does. Prompts are random tokens, and nothing stops
an answer early, so that each repeat does the same work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from loratory.errors import ConfigError
from loratory.evaluation.measure import Measure, median_of
from loratory.infer.generate import context_length, generate


@dataclass(frozen=True, slots=True)
class Workload:
    """What is generated.

    Attributes:
        prompt_tokens: Length of each prompt.
        new_tokens: Tokens generated for each prompt, at least 2.
        batch_size: Prompts answered at once.
    """

    prompt_tokens: int
    new_tokens: int
    batch_size: int

    @property
    def label(self) -> str:
        """The workload in the names of its measures."""
        return f"prompt={self.prompt_tokens},new={self.new_tokens},batch={self.batch_size}"


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed run, in seconds.

    Attributes:
        first_token_s: From the call to the first token of the whole batch.
        token_s: Time of each later step of the batch, one per further token of a row.
    """

    first_token_s: float
    token_s: tuple[float, ...]


def fit_workload(model: PreTrainedModel | PeftModel, workload: Workload) -> Workload:
    """The workload itself.

    Raises:
        ConfigError: Prompt and answer are longer than the model's context.
    """
    limit = context_length(model)
    if limit is not None and workload.prompt_tokens + workload.new_tokens > limit:
        raise ConfigError(
            f"evaluation.speed_prompt_tokens + evaluation.speed_new_tokens: {workload.prompt_tokens} + "
            f"{workload.new_tokens} tokens do not fit into the model's context of {limit}; take fewer"
        )
    return workload


def time_generation(model: PreTrainedModel | PeftModel, workload: Workload, *, seed: int = 0) -> Timing:
    """Generate once and time each step.

    Raises:
        ConfigError: Prompt and answer are longer than the model's context.
    """
    prompts = random_prompts(model, fit_workload(model, workload), seed=seed)
    stamps: list[float] = []
    num_left = 0

    def stamp(row: int, token: int) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            stamps.append(time.perf_counter())
            num_left = workload.batch_size

    num_left = workload.batch_size
    start = time.perf_counter()
    generate(
        model,
        prompts,
        stop_token_ids=(),
        max_new_tokens=workload.new_tokens,
        batch_size=workload.batch_size,
        on_token=stamp,
    )
    steps = tuple(later - earlier for earlier, later in pairwise(stamps))
    return Timing(stamps[0] - start, steps)


def speed_measures(workload: Workload, timings: Sequence[Timing]) -> list[Measure]:
    """Rates and latencies of repeated runs: medians with quartiles, p50 and p95 over all steps."""
    size, on = workload.batch_size, f"batch {workload.batch_size}"
    repeats = {"on": on, "n_of": "repeats"}
    first = [timing.first_token_s for timing in timings]
    steps_ms = sorted(1000 * step for timing in timings for step in timing.token_s)
    p50, p95 = (_percentile(steps_ms, share) for share in (0.50, 0.95))
    step_words = f"time of one decoding step of the batch, over all {len(steps_ms)} steps of {len(timings)} repeats"
    return [
        median_of(
            f"prefill@{workload.label}",
            [size * workload.prompt_tokens / seconds for seconds in first],
            "tokens/s",
            "prompt tokens of the batch over the time to its first token, median over repeats",
            **repeats,
        ),
        median_of(
            f"decode@{workload.label}",
            [size * len(timing.token_s) / sum(timing.token_s) for timing in timings],
            "tokens/s",
            "tokens of the batch after the first over the time between first and last, median over repeats",
            **repeats,
        ),
        median_of(
            f"first_token@{workload.label}",
            [1000 * seconds for seconds in first],
            "ms",
            "time from the call to the first token of the batch, median over repeats",
            **repeats,
        ),
        _percentile_measure(f"token_latency_p50@{workload.label}", p50, steps_ms, f"median {step_words}", on),
        _percentile_measure(
            f"token_latency_p95@{workload.label}", p95, steps_ms, f"95th percentile of the {step_words}", on
        ),
    ]


def measure_speed(
    model: PreTrainedModel | PeftModel,
    workload: Workload,
    *,
    repeats: int = 5,
    warmup: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> list[Measure]:
    """Warm up, repeat, and report medians and spread.

    Args:
        model: The model, as it will answer.
        workload: What is generated.
        repeats: Timed runs.
        warmup: Untimed runs before them.
        on_progress: Called with the number of runs done.

    Raises:
        ConfigError: Prompt and answer are longer than the model's context.
    """
    timings = []
    for number in range(warmup + repeats):
        timing = time_generation(model, workload)
        if number >= warmup:
            timings.append(timing)
        if on_progress is not None:
            on_progress(number + 1)
    return speed_measures(workload, timings)


def random_prompts(model: PreTrainedModel | PeftModel, workload: Workload, *, seed: int = 0) -> list[list[int]]:
    """Prompts of random token ids; equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    num_ids = model.get_input_embeddings().weight.shape[0]
    ids_BT = torch.randint(num_ids, (workload.batch_size, workload.prompt_tokens), generator=generator)
    prompts: list[list[int]] = ids_BT.tolist()
    return prompts


def _percentile(ascending: Sequence[float], share: float) -> float:
    """Nearest rank: the least value that `share` of all do not exceed."""
    rank = max(1, -(-len(ascending) * round(share * 100) // 100))
    return ascending[rank - 1]


def _percentile_measure(name: str, value: float, steps_ms: Sequence[float], definition: str, on: str) -> Measure:
    return Measure(
        name=name, on=on, value=value, unit="ms", n=len(steps_ms), n_of="steps", low=steps_ms[0], high=steps_ms[-1],
        interval="least and greatest step", definition=f"{definition} (nearest rank)",
    )  # fmt: skip
