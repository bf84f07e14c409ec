"""Configurations of tiny runs, and child processes that really train and can really be killed."""

import functools
import json
import multiprocessing
import random
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from loratory.config import RunConfig

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 Alpaca rows of unequal lengths."""
    generator = random.Random(5)
    words = ["cancel", "roaming", "plan", "answer", "question", "intro_111", "the", "9.9"]
    rows = [
        {
            "instruction": " ".join(generator.choices(words, k=generator.randint(1, 9))),
            "input": "",
            "output": f"code_{i}|" + "x" * generator.randint(0, 12),
        }
        for i in range(24)
    ]
    path = tmp_path_factory.mktemp("rows") / "train.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def config_in(tiny_llama_dir: Path, rows_file: Path) -> Callable[..., RunConfig]:
    """A factory: (output folder, dotted overrides) -> configuration of a tiny run."""

    def make(output_dir: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        content: dict[str, dict[str, Any]] = {
            "model": {"model_name_or_path": str(tiny_llama_dir)},
            "data": {"train": str(rows_file), "template": "alpaca", "cutoff_len": 256},
            "adapter": {"rank": 4},
            "train": {"batch_size": 4, "num_epochs": 1, "learning_rate": 0.01, "num_threads": 1},
            "run": {"output_dir": str(output_dir), "name": "tiny"},
        }
        for key, value in (overrides or {}).items():
            section, name = key.split(".")
            content.setdefault(section, {})[name] = value
        if content["adapter"].get("method", "lora") not in ("lora", "full"):
            content["adapter"].pop("rank")
        return RunConfig.model_validate(content)

    return make


@pytest.fixture
def make_config(config_in: Callable[..., RunConfig], tmp_path: Path) -> MakeConfig:
    """A factory: dotted overrides -> configuration of a tiny run below tmp_path/outputs."""
    return functools.partial(config_in, tmp_path / "outputs")


@pytest.fixture(scope="session")
def children() -> ForkServerContext:
    """A server that has imported the engine once and forks a fresh process for each child, in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loratory.engine.training", "tensorboard"])
    return context
