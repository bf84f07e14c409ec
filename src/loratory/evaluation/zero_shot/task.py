"""lm-eval's own task definitions, on documents from local files or from the hub.

Prompts, choices, targets and scoring are lm-eval's; only where the documents come from is ours.
"""

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratory.errors import ConfigError, DataError
from loratory.evaluation.zero_shot.layout import LAYOUTS
from loratory.evaluation.zero_shot.local_data import LocalTask, candidate_files, read_local_task
from loratory.evaluation.zero_shot.result import TaskSource

if TYPE_CHECKING:
    from datasets import DatasetDict
    from lm_eval.api.task import ConfigurableTask


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTask:
    """A task ready to be evaluated.

    Attributes:
        name: lm-eval's name.
        task: lm-eval's task object.
        source: Where its documents came from.
    """

    name: str
    task: "ConfigurableTask"
    source: TaskSource


def load_task(name: str, *, data_dir: Path | None, num_fewshot: int, seed: int) -> LoadedTask:
    """Load a task's definition and documents: local files if there are any, else the hub.

    Args:
        name: A name out of `LAYOUTS`.
        data_dir: Folder with local files, or None.
        num_fewshot: Examples in front of each document.
        seed: Seed of their choice.

    Raises:
        DataError: When there are neither local files nor a hub, a local file is broken, or there are too few rows for
            `num_fewshot` examples.
    """
    local = None if data_dir is None else read_local_task(name, data_dir)
    with quiet_lm_eval():
        loaded = _from_hub(name, data_dir) if local is None else _from_files(name, local)
    pool = len(loaded.task.dataset[loaded.source.fewshot_split])
    if num_fewshot >= pool:
        raise DataError(
            f"{name}: {num_fewshot} examples were asked for, but the split '{loaded.source.fewshot_split}' has only "
            f"{pool} rows; lower num_fewshot or provide a larger split"
        )
    loaded.task.set_config(key="num_fewshot", value=num_fewshot)
    loaded.task.set_fewshot_seed(seed=seed)
    return loaded


def _from_files(name: str, local: LocalTask) -> LoadedTask:
    from datasets import Dataset, DatasetDict

    # Equal to the split that is scored, `test_split` makes lm-eval keep a document out of its own examples.
    overrides: dict[str, Any] = {
        "training_split": "train" if "train" in local.splits else None,
        "validation_split": "validation" if "validation" in local.splits else None,
        "test_split": local.split,
        "fewshot_split": local.fewshot_split,
    }
    if name == "hellaswag" and local.is_processed:
        overrides["process_docs"] = None
    dataset = DatasetDict({split: Dataset.from_list(list(rows)) for split, rows in local.splits.items()})
    task = _build(name, overrides, dataset)
    source = TaskSource("local", str(local.folder), local.split, local.fewshot_split, local.sha256)
    return LoadedTask(name, task, source)


def _from_hub(name: str, data_dir: Path | None) -> LoadedTask:
    try:
        task = _build(name, {}, None)
    except (OSError, ValueError) as error:
        files = ", ".join(candidate_files(name))
        looked = f"none of {files} is in {data_dir}" if data_dir is not None else "no folder with local files was given"
        raise DataError(
            f"{name}: {looked}, and the hub cannot be read ({error}). Put one of {files} into the data folder, or run "
            "once with network access so that the data set is cached"
        ) from error
    scored = "test" if task.has_test_docs() else "validation"
    config = task.config
    split = str(config.test_split if scored == "test" else config.validation_split)
    fewshot_split = str(config.fewshot_split or config.training_split or config.validation_split or split)
    location = "/".join(str(part) for part in (config.dataset_path, config.dataset_name) if part)
    return LoadedTask(
        name, task, TaskSource("hub", location, split, fewshot_split, {split: _rows_sha256(task.dataset[split])})
    )


def _rows_sha256(rows: Any) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def _build(name: str, overrides: Mapping[str, Any], dataset: "DatasetDict | None") -> "ConfigurableTask":
    """The task of lm-eval's own definition file, with some fields replaced."""
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask

    class DocumentTask(ConfigurableTask):  # type: ignore[misc]
        """Takes its documents from `dataset` unless that is None, and draws no bar while it builds its requests."""

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config={key: value for key, value in config.items() if key != "class"})

        def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
            if dataset is None:
                super().download(dataset_kwargs)
            else:
                self.dataset = dataset

        def build_all_requests(self, **options: Any) -> None:  # lm-eval's arguments, as they come
            with contextlib.redirect_stderr(io.StringIO()):
                super().build_all_requests(**options)

    folder = Path(lm_eval.tasks.__file__).parent / LAYOUTS[name].folder
    manager = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)
    if name not in manager.all_subtasks:
        raise ConfigError(f"tasks: the installed lm-eval has no definition of '{name}' in {folder}; install 0.4.13")
    # lm-eval applies overrides to the definition of a task that stands in a group.
    spec = {"group": "scored", "task": [{"task": name, "class": DocumentTask, **overrides}]}
    return manager.load(spec)["tasks"][name]


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Only errors of lm-eval's log; its warnings are about settings that are ours."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
