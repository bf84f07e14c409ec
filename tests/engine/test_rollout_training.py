"""PPO, GRPO and RLOO through the loop: all ways of tuning, evaluation by reward, resume, and rewards that fail."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from loratory.config import RunConfig
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError, IntegrityError, RewardError
from loratory.objective.reward_function import NamedRewardFunction

MakeConfig = Callable[..., RunConfig]

SMALL: dict[str, Any] = {
    "objective.rollout": {"max_new_tokens": 6, "prompts": 2, "samples_per_prompt": 3},
    "train.batch_size": 6,
    "train.max_steps": 3,
    "train.learning_rate": 0.01,
    "data.val_size": 3,
}


def longer(prompt: str, answer: str, label: str) -> float:
    return float(len(answer))


def named(function: Callable[[str, str, str], float], *, source: str = "0") -> NamedRewardFunction:
    return NamedRewardFunction("tests:reward", function, source)


def train(config: RunConfig, tmp_path: Path, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """Metrics lines and what the user read."""
    log = tmp_path / "log"
    options.setdefault("reward_function", named(longer))
    with log.open("a") as file:
        result = run_training(config, console=Console(file=file, width=1000), **options)
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    return lines, log.read_text()


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_every_objective_trains_and_is_evaluated_by_reward(
    make_config: MakeConfig, tmp_path: Path, name: str, tuning: str
) -> None:
    method = {} if tuning == "lora" else {"adapter.method": "full"}
    lines, _ = train(make_config({**SMALL, **method, "objective.name": name}), tmp_path)
    steps = [line for line in lines if "eval_loss" not in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        assert {"loss", "clip_fraction", "grad_norm"} <= line.keys()
    assert {"reward", "answer_tokens", "stopped", "empty_answers", "failed_rewards"} <= steps[0].keys()
    evaluated = [line for line in lines if "eval_loss" in line]
    assert evaluated
    assert all(line["eval_loss"] == -line["eval_reward"] for line in evaluated)
    final = tmp_path / "outputs" / "tiny" / "final_model"
    assert (final / ("adapter_model.safetensors" if tuning == "lora" else "model.safetensors")).exists()
    assert (final / "beside.safetensors").exists() == (name == "ppo")
