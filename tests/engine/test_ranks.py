"""Two real processes against one."""

import json
import shutil
import socket
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import training_child
from safetensors.torch import load_file

from loratory.config import RunConfig

pytestmark = pytest.mark.kill

SETTINGS = {"train.num_epochs": 2, "train.batch_size": 5, "data.val_size": 5, "train.eval_steps": 2}
# Rewards, references and answers are made by each process for its share.
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"train.batch_size": 5, "data.val_size": 4},
    "kto": {"train.batch_size": 5, "data.val_size": 4},
    "reward": {"train.batch_size": 5, "data.val_size": 4},
    "grpo": {
        "train.batch_size": 12,
        "objective.rollout": {
            "reward": "regex",
            "reward_pattern": "[aeiou]",
            "max_new_tokens": 6,
            "prompts": 3,
            "samples_per_prompt": 4,
        },
        "objective.grpo": {"beta": 0.05, "epochs": 2},
    },
    "ppo": {
        "train.batch_size": 6,
        "objective.rollout": {"reward": "regex", "reward_pattern": "[aeiou]", "max_new_tokens": 6},
        "objective.ppo": {"epochs": 2},
    },
}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def train_alone(children: ForkServerContext, config: RunConfig, log: Path) -> None:
    process = children.Process(target=training_child.train, args=(config, False, log))
    process.start()
    process.join(300)
    assert process.exitcode == 0, log.read_text()


def train_as_pair(children: ForkServerContext, config: RunConfig, folder: Path) -> list[str]:
    """As torchrun starts it; what each process said."""
    port = free_port()
    pair = []
    for rank in range(2):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        log = folder / f"two-{rank}.log"
        pair.append(children.Process(target=training_child.train, args=(config, False, log, environment)))
        pair[-1].start()
    for process in pair:
        process.join(300)
    logs = [(folder / f"two-{rank}.log").read_text() for rank in range(2)]
    assert [p.exitcode for p in pair] == [0, 0], logs
    return logs


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_trains(make_config, children, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outputs = tmp_path / "outputs"
    train_alone(children, make_config({**SETTINGS, "run.name": "one"}), tmp_path / "one.log")
    shutil.rmtree(outputs / ".tokens")  # the pair tokenises for itself: the main process first
    logs = train_as_pair(children, make_config({**SETTINGS, "run.name": "two"}), tmp_path)
    assert logs[1] == ""  # only the main process speaks
    assert len(list((outputs / ".tokens").iterdir())) == 1
    one = load_file(outputs / "one" / "final_model" / "adapter_model.safetensors")
    two = load_file(outputs / "two" / "final_model" / "adapter_model.safetensors")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    for a, b in zip(curve(outputs / "one"), curve(outputs / "two"), strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "eval_loss", "supervised_tokens", "token_accuracy", "learning_rate"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-5)
    assert json.loads((outputs / "two" / "provenance.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_learn_every_objective_as_one_does(make_config, children, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    """The same losses, rewards and KLs from the same optimizer batches, whoever computes a row."""
    pairs = [{"instruction": f"question {i}", "chosen": f"code_{i}", "rejected": f"sorry {i}"} for i in range(16)]
    judged = [{"prompt": f"question {i}", "completion": f"code_{i}", "label": i % 3 > 0} for i in range(16)]
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(judged if name == "kto" else pairs))
    asked = {} if name in ("grpo", "ppo") else {"data.train": str(rows)}
    # A small rate: rounding that differs between one and two processes must not grow into other answers.
    settings = {"objective.name": name, "train.max_steps": 4, "train.learning_rate": 1e-3, **asked, **OBJECTIVES[name]}
    train_alone(children, make_config({**settings, "run.name": "one"}), tmp_path / "one.log")
    shutil.rmtree(tmp_path / "outputs" / ".tokens")
    logs = train_as_pair(children, make_config({**settings, "run.name": "two"}), tmp_path)
    assert logs[1] == ""
    one, two = (curve(tmp_path / "outputs" / run) for run in ("one", "two"))
    steps = [line for line in one if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    if name in ("grpo", "ppo"):
        assert any(0 < line.get("reward", 0) < 1 for line in steps)  # something to tell answers apart by
    untold = {"tokens_per_s", "memory_mib", "eval_seconds"}
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - untold:
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-5), f"step {a['step']}: {key}"
