"""Zero-shot scores: tasks one after the other, each result out as soon as it is there."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loratory.errors import ConfigError, DataError, suggest
from loratory.evaluation.bootstrap import bootstrap_interval
from loratory.evaluation.zero_shot.backend import require_lm_eval, tree_language_model
from loratory.evaluation.zero_shot.layout import LAYOUTS
from loratory.evaluation.zero_shot.result import TaskResult, TaskScore
from loratory.evaluation.zero_shot.task import LoadedTask, load_task, quiet_lm_eval

TASKS = tuple(LAYOUTS)
_DEFINITIONS = {
    "acc": "percent of documents whose right choice has the highest log-likelihood",
    "acc_norm": "percent of documents whose right choice has the highest log-likelihood per character of the choice",
}


def zero_shot_scores(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tasks: Sequence[str] = TASKS,
    data_dir: Path | None = None,
    limit: int | None = None,
    num_fewshot: int = 0,
    seed: int = 42,
    max_batch_tokens: int | None = None,
    add_bos_token: bool | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[TaskResult]:
    """Score a model on multiple-choice tasks by lm-eval's definitions.

    Everything that can be refused is refused here, before the first document: names, numbers, files, hub. Then tasks
    run as the result is iterated.

    Args:
        model: A causal language model: plain, merged, with a PEFT adapter, or unevenly pruned.
        tokenizer: Its tokenizer.
        tasks: Names out of `TASKS`.
        data_dir: Folder with local files; a task without a file there is taken from the hub.
        limit: Only the first so many documents of each task.
        num_fewshot: Examples in front of each document.
        seed: Seed of the choice of examples and of the bootstrap.
        max_batch_tokens: Tokens of a batch, shared ones counted once; None: from free memory.
        add_bos_token: Put special tokens in front of a text; None: as the tokenizer does by itself.
        on_progress: Called with (task, finished requests, all requests).

    Returns:
        Results, task by task, in the order of `tasks`.

    Raises:
        ConfigError: Unknown task, or a number out of range.
        DataError: No documents for a task, or broken ones; all tasks are looked at, the message names each.
        MissingExtraError: lm-eval is not installed.
    """
    _check(tasks, data_dir, limit, num_fewshot)
    version = require_lm_eval()
    loaded: list[LoadedTask] = []
    faults: list[str] = []
    for name in tasks:
        try:
            loaded.append(load_task(name, data_dir=data_dir, num_fewshot=num_fewshot, seed=seed))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))

    def run(task: LoadedTask) -> TaskResult:
        start = time.perf_counter()
        report = None if on_progress is None else lambda done, total: on_progress(task.name, done, total)
        language_model = tree_language_model(
            model, tokenizer, add_bos_token=add_bos_token, max_batch_tokens=max_batch_tokens, on_progress=report
        )
        raw = _evaluate(language_model, task, limit)
        return TaskResult(
            task=task.name,
            task_version=str(raw["versions"][task.name]),
            lm_eval_version=version,
            scores=_scores(raw, task.name, version, seed),
            num_fewshot=num_fewshot,
            limit=limit,
            seed=seed,
            num_truncated=language_model.likelihoods.num_truncated,
            source=task.source,
            scorer_path=language_model.likelihoods.scorer_path,
            duration_s=time.perf_counter() - start,
        )

    return (run(task) for task in loaded)


def _check(tasks: Sequence[str], data_dir: Path | None, limit: int | None, num_fewshot: int) -> None:
    faults = [
        f"tasks: unknown task '{name}'; known: {', '.join(TASKS)}.{suggest(name, TASKS)}"
        for name in tasks
        if name not in TASKS
    ]
    faults += [
        f"tasks: '{name}' is named twice; name it once" for name in dict.fromkeys(tasks) if tasks.count(name) > 1
    ]
    if not tasks:
        faults.append(f"tasks: none was named; known: {', '.join(TASKS)}")
    if limit is not None and limit < 1:
        faults.append(f"limit: got {limit}; it must be at least 1, or absent for all documents")
    if num_fewshot < 0:
        faults.append(f"num_fewshot: got {num_fewshot}; it must be 0 or more")
    if faults:
        raise ConfigError(faults)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; give the folder that holds the tasks' files")


def _evaluate(language_model: Any, task: LoadedTask, limit: int | None) -> Mapping[str, Any]:
    from lm_eval.evaluator import evaluate

    with quiet_lm_eval():
        results: Mapping[str, Any] = evaluate(
            language_model, {"tasks": {task.name: task.task}}, limit=limit, log_samples=True
        )
    return results


def _scores(raw: Mapping[str, Any], task: str, version: str, seed: int) -> dict[str, TaskScore]:
    scores = {}
    results, samples = raw["results"][task], raw["samples"][task]
    for key, value in results.items():
        name, _, filter_name = key.partition(",")
        if not filter_name or name.endswith("_stderr"):
            continue
        values = 100.0 * np.array([float(sample[name]) for sample in samples])
        low, high = bootstrap_interval(values, seed=seed)
        error = results.get(f"{name}_stderr,{filter_name}")
        scores[name] = TaskScore(
            value=100.0 * float(value),
            standard_error=100.0 * error if isinstance(error, float) else None,
            low=low,
            high=high,
            n=len(values),
            definition=f"{_DEFINITIONS.get(name, name)} (lm-eval {version}, task {task} {raw['versions'][task]})",
        )
    return scores
