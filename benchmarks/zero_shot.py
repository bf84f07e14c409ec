"""Our lm-eval backend against lm-eval's own Hugging Face backend: `python -m benchmarks.zero_shot`.

Both score the same requests of lm-eval's own task definitions, in turn, on one loaded model. HFLM runs at batch 1 and
at larger batches; its best one counts. Log-likelihoods and greedy flags are compared request by request.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from loratory.evaluation.zero_shot.backend import tree_language_model
from loratory.evaluation.zero_shot.layout import LAYOUTS
from loratory.evaluation.zero_shot.task import load_task, quiet_lm_eval

OURS = "loratory"
BAR = 2.0


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """What was measured on one task.

    Attributes:
        task: Name.
        num_requests: Requests scored by everyone.
        seconds: Wall times by contestant, round by round.
        largest_gap_nats: Largest distance between our log-likelihood and HFLM's.
        greedy_differs: Requests whose greedy flag differs from HFLM's.
    """

    task: str
    num_requests: int
    seconds: dict[str, list[float]]
    largest_gap_nats: float
    greedy_differs: int

    @property
    def speed_up(self) -> float:
        """Time of HFLM's best batch size over ours, medians."""
        times = {name: median(values) for name, values in self.seconds.items()}
        return min(value for name, value in times.items() if name != OURS) / times[OURS]


def main() -> None:
    """Score, print the table, and say whether the bar was reached."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = _load(arguments.model)
    results = [
        measure_task(
            model,
            tokenizer,
            task,
            data_dir=arguments.data,
            limit=arguments.limit,
            num_fewshot=arguments.num_fewshot,
            batch_sizes=arguments.batch_sizes,
            repeats=arguments.repeats,
        )
        for task in arguments.tasks
    ]
    print(table(results))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def measure_task(
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    data_dir: Path | None,
    limit: int,
    num_fewshot: int,
    batch_sizes: Sequence[int],
    repeats: int,
) -> TaskTimes:
    """Score the requests of a task's first documents by every contestant in turn."""
    from lm_eval.models.huggingface import HFLM

    loaded = load_task(task, data_dir=data_dir, num_fewshot=num_fewshot, seed=42).task
    loaded.build_all_requests(limit=limit)
    requests = loaded.instances
    contestants: dict[str, Callable[[], list[tuple[float, bool]]]] = {}
    with quiet_lm_eval():
        ours = tree_language_model(model, tokenizer)
        contestants[OURS] = lambda: ours.loglikelihood(requests)
        for size in batch_sizes:
            backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
            contestants[f"HFLM, batch {size}"] = lambda backend=backend: backend.loglikelihood(
                requests, disable_tqdm=True
            )
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, list[tuple[float, bool]]] = {}
    for _ in range(repeats):
        for name, score in contestants.items():
            start = time.perf_counter()
            answers[name] = score()
            seconds[name].append(time.perf_counter() - start)
            print(f"{task}, {name}: {seconds[name][-1]:.2f} s", flush=True)
    others = [answers[name] for name in answers if name != OURS]
    pairs = [(mine, theirs) for other in others for mine, theirs in zip(answers[OURS], other, strict=True)]
    return TaskTimes(
        task=task,
        num_requests=len(requests),
        seconds=seconds,
        largest_gap_nats=max(abs(mine[0] - theirs[0]) for mine, theirs in pairs),
        greedy_differs=sum(mine[1] != theirs[1] for mine, theirs in pairs),
    )


def table(results: Sequence[TaskTimes]) -> str:
    """Requests per second of every contestant, median over the rounds."""
    names = list(results[0].seconds)
    lines = [
        f"| task | requests | {' | '.join(f'{name}, requests/s' for name in names)} | ours is | largest gap, nats |",
        "|" + "---|" * (len(names) + 4),
    ]
    for result in results:
        rates = " | ".join(f"{result.num_requests / median(result.seconds[name]):.1f}" for name in names)
        gap = f"{result.largest_gap_nats:.1e}"
        lines.append(f"| {result.task} | {result.num_requests} | {rates} | {result.speed_up:.2f}× | {gap} |")
    best = max(result.speed_up for result in results)
    differing = sum(result.greedy_differs for result in results)
    lines.append("")
    lines.append(
        f"Best ratio {best:.2f}× against HFLM's best batch size ({'reaches' if best >= BAR else 'misses'} {BAR:g}×); "
        f"{differing} greedy flags differ."
    )
    return "\n".join(lines)


def _load(folder: Path | None) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if folder is None:
        from loratory.demo.base_model import ensure_base_model

        folder = ensure_base_model()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_shot", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the tasks' files; default: the hub")
    parser.add_argument("--tasks", nargs="+", choices=sorted(LAYOUTS), default=["hellaswag", "arc_challenge"])
    parser.add_argument("--limit", type=int, default=25, help="documents of each task")
    parser.add_argument("--num-fewshot", type=int, default=0)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 16], help="of HFLM")
    parser.add_argument("--repeats", type=int, default=2, help="rounds; contestants alternate within a round")
    parser.add_argument("--model", type=Path, help="a model folder; default: the demo's base model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
