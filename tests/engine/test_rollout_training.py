"""PPO, GRPO and RLOO through the loop: all ways of tuning, evaluation by reward, resume, and rewards that fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from loratory.config import RunConfig
from loratory.data.reader import read_records
from loratory.data.templates import bind_template
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError, IntegrityError, RewardError
from loratory.infer.decoding import decode
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


def expected_reward(config: RunConfig, folder: Path) -> float:
    """Exact, over the whole vocabulary: the mean over the rows of the reward of one drawn token."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = bind_template("alpaca", tokenizer)
    stops = set(template.stop_token_ids)
    values = [0.0 if i in stops else longer("", decode(tokenizer, [i]), "") for i in range(len(tokenizer))]
    rewards_V = torch.tensor(values, dtype=torch.float64)
    total = 0.0
    rows = read_records(
        str(config.data.train), format="auto", columns={}, system=None, max_bad_rows=0, require_answer=False
    ).records
    for record in rows:
        with torch.no_grad():
            logits_V = model(torch.tensor([template.generation_prompt(record)])).logits[0, -1].double()
        total += float((logits_V.softmax(-1) * rewards_V).sum())
    return total / len(rows)


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_a_bandit_learns_which_arm_pays(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    """One token an answer, long words pay: the exact expected reward rises, whatever was drawn on the way."""
    config = make_config(
        {
            "adapter.method": "full",  # a tiny random head says little about any token, so it learns too
            "objective.name": name,
            "objective.rollout": {"max_new_tokens": 1, "prompts": 6, "samples_per_prompt": 8},
            "train.batch_size": 48,
            "train.max_steps": 12,
            "train.learning_rate": 0.02,
            "train.schedule": "constant",
        }
    )
    lines, _ = train(config, tmp_path)
    before = expected_reward(config, Path(config.model.model_name_or_path))
    after = expected_reward(config, tmp_path / "outputs" / "tiny" / "final_model")
    # What was logged first is a sample of what was there before: 48 draws.
    assert lines[0]["reward"] == pytest.approx(before, abs=0.6)
    assert after > before + 0.8


def test_steps_without_a_difference_in_reward_are_skipped(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config({**SMALL, "objective.name": "grpo", "data.val_size": 0, "train.max_steps": 2})
    lines, _ = train(config, tmp_path, reward_function=named(lambda prompt, answer, label: 1.0))
    assert [line["groups_without_variance"] for line in lines] == [1.0, 1.0]
    assert [line["skipped_steps"] for line in lines] == [1, 1]
    assert all("loss" not in line for line in lines)
    weights = load_file(tmp_path / "outputs" / "tiny" / "final_model" / "adapter_model.safetensors")
    assert all(not tensor.any() for name, tensor in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_failed_rewards_are_counted_explained_and_left_out(
    make_config: MakeConfig, tmp_path: Path, name: str, value: float | None
) -> None:
    calls = iter(range(10**6))

    def sometimes(prompt: str, answer: str, label: str) -> float:
        if next(calls) % 3 == 0:
            return 1 / 0 if value is None else value
        return float(len(answer))

    rollout = {**SMALL["objective.rollout"], "max_failed_rewards": 0.5}
    config = make_config({**SMALL, "objective.name": name, "objective.rollout": rollout, "data.val_size": 0})
    lines, log = train(config, tmp_path, reward_function=named(sometimes))
    assert next(line["failed_rewards"] for line in lines if "failed_rewards" in line) == pytest.approx(1 / 3)
    assert "2 of 6 answers have no reward and are left out; the first, to" in log
    assert ("ZeroDivisionError" if value is None else "not finite") in log
    weights = load_file(tmp_path / "outputs" / "tiny" / "final_model" / "adapter_model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_too_many_failed_rewards_end_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config({**SMALL, "objective.name": "ppo", "data.val_size": 0})
    with pytest.raises(RewardError, match=r"failed for 6 of 6 answers.*max_failed_rewards"):
        train(config, tmp_path, reward_function=named(lambda prompt, answer, label: float("nan")))
    assert not (tmp_path / "outputs" / "tiny" / "final_model").exists()


def test_a_prompt_that_fills_the_context_is_refused_before_training(make_config: MakeConfig, tmp_path: Path) -> None:
    rollout = {**SMALL["objective.rollout"], "max_new_tokens": 500}
    config = make_config({**SMALL, "objective.name": "grpo", "objective.rollout": rollout})
    with pytest.raises(DataError, match=r"prompts leave no room.*max_new_tokens 500 leaves 12"):
        train(config, tmp_path)


def test_rewards_that_are_missing_or_double_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no reward to learn from"):
        train(make_config({**SMALL, "objective.name": "ppo"}), tmp_path, reward_function=None)
    numeric = {**SMALL["objective.rollout"], "reward": "numeric"}
    with pytest.raises(ConfigError, match="--reward-function is given too"):
        train(make_config({**SMALL, "objective.name": "ppo", "objective.rollout": numeric}), tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="learns from no reward"):
        train(make_config({"run.name": "sft"}), tmp_path)


def test_another_reward_function_is_another_run(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config({**SMALL, "objective.name": "ppo", "data.val_size": 0, "train.save_steps": 1})
    train(config, tmp_path)
    (tmp_path / "outputs" / "tiny" / "FINISHED").unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "outputs" / "tiny" / "final_model")
    with pytest.raises(IntegrityError, match="reward_function"):
        train(config, tmp_path, resume=True, reward_function=named(longer, source="1"))


def test_qlora(make_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = make_config({**SMALL, "objective.name": "ppo", "quantization.load_in_4bit": True})
    lines, _ = train(config, tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
