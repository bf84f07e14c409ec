"""Reward models through the loop: pairs in, a standard model out, exact after kill -9."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_resume_law import curve, finish, outcome, start, steps_saved, wait_for_step
from transformers import AutoModelForSequenceClassification

from loratory.config import RunConfig
from loratory.engine.training import run_training
from loratory.errors import ConfigError, DataError
from loratory.infer.reward_model import load_reward_model
from loratory.tree import scorers

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs: the chosen answer is the polite one."""
    generator = random.Random(7)
    words = ["cancel", "roaming", "plan", "question", "the", "9.9"]
    rows = []
    for i in range(24):
        ask = " ".join(generator.choices(words, k=generator.randint(1, 9)))
        answer = "x" * generator.randint(1, 9)
        row = {"instruction": f"{ask} {i}", "chosen": f"yes {answer}", "rejected": f"no {answer}"}
        rows.append(row | ({"margin": 0.5} if i % 3 == 0 else {}))
    path = tmp_path_factory.mktemp("pairs") / "pairs.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def reward_config(make_config: Callable[..., RunConfig], pairs_file: Path) -> Callable[..., RunConfig]:
    def make(**overrides: object) -> RunConfig:
        settings = {
            "objective.name": "reward",
            "data.train": str(pairs_file),
            "data.val_size": 6,
            "train.num_epochs": 4,
        }
        return make_config(settings | {"train.eval_steps": 4, "train.logging_steps": 2} | overrides)

    return make


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_learns_and_the_result_loads_without_us(reward_config, tiny_llama_dir: Path) -> None:  # type: ignore[no-untyped-def]
    result = run_training(reward_config(**{"objective.reward": {"center_coefficient": 0.01}}))
    logged = lines(result.run_dir)
    last = [line for line in logged if "eval_loss" in line][-1]
    assert last["eval_accuracy"] == 1.0
    assert last["eval_reward_margin"] > 0.5
    assert 0 <= last["eval_calibration_error"] <= 0.5
    assert {"accuracy", "reward_margin", "calibration_error"} <= set(logged[0])
    assert last["eval_loss"] < math.log(2)
    judge = load_reward_model(result.run_dir)
    assert judge.scorer.path == "fused"
    texts = ["Hello, yes please.", "no", "Hello, yes sir. " * 9]
    ids = [judge.tokenizer(text)["input_ids"] for text in texts]
    scores = judge.scores(ids, max_tokens_per_pass=16)
    plain = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tiny_llama_dir, num_labels=1), result.final_model
    )
    with torch.no_grad():
        expected = [float(plain(input_ids=torch.tensor([row])).logits) for row in ids]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert json.loads((result.final_model / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    with pytest.raises(DataError, match="sequence 2 of 2 has no tokens"):
        judge.scores([[1], []])


def test_full_fine_tuning_gives_a_standard_folder(reward_config) -> None:  # type: ignore[no-untyped-def]
    result = run_training(
        reward_config(**{"adapter.method": "full", "train.learning_rate": 1e-3, "train.max_steps": 6})
    )
    judge = load_reward_model(result.final_model)
    plain, info = AutoModelForSequenceClassification.from_pretrained(result.final_model, output_loading_info=True)
    assert not info["missing_keys"]
    assert plain.config.num_labels == 1
    assert plain.config.pad_token_id == judge.tokenizer.pad_token_id
    ids = [[9, 8, 7, 6, 5], [9, 8]]
    padded = torch.tensor([ids[0], [*ids[1], *[plain.config.pad_token_id] * 3]])
    with torch.no_grad():
        expected = plain(input_ids=padded, attention_mask=(padded != plain.config.pad_token_id).long()).logits[:, 0]
    assert judge.scores(ids) == pytest.approx(expected.tolist(), abs=1e-5)


def test_shared_prompts_learn_as_padded_rows_do(reward_config, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    gentle = {"train.learning_rate": 1e-4, "train.max_steps": 8}
    shared = run_training(reward_config(**gentle, **{"run.name": "shared"}))
    fused = scorers._fastest
    monkeypatch.setattr(scorers, "_fastest", lambda model, found: scorers.PaddedScorer(model, reason="twin"))
    padded = run_training(reward_config(**gentle, **{"run.name": "padded"}))
    assert fused is not scorers._fastest
    for one, other in zip(curve(shared.run_dir), curve(padded.run_dir), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.kill
def test_killed_and_resumed_to_the_bit(reward_config, children, tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = {"adapter.dropout": 0.1, "train.micro_batch_size": 2, "train.save_steps": 1}
    log = tmp_path / "log"
    whole = reward_config(**settings, **{"run.name": "whole"})
    assert finish(start(children, whole, log, resume=False)) == 0, log.read_text()
    config = reward_config(**settings, **{"run.name": "killed"})
    run = tmp_path / "outputs" / "killed"
    for step in (3, 9):
        process = start(children, config, log, resume=step > 3)
        wait_for_step(process, run, step)
        process.kill()
        assert finish(process) == -signal.SIGKILL, log.read_text()
        assert 0 < steps_saved(run) < 20
    assert finish(start(children, config, log, resume=True)) == 0, log.read_text()
    assert outcome(run) == outcome(tmp_path / "outputs" / "whole")


def test_bad_pairs_are_counted_or_refused(reward_config, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    good = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([good, good | {"rejected": "yes"}, good | {"prompt": "p"}]))
    options = {"data.train": str(path), "data.val_size": 0, "train.max_steps": 1}
    run_training(reward_config(**options))
    assert "1 left out: chosen and rejected answer are equal (first: " in capsys.readouterr().err
    path.write_text(json.dumps([good, good | {"rejected": ""}]))
    with pytest.raises(DataError, match=r"bad\.json:.*empty answer"):
        run_training(reward_config(**options, **{"run.name": "empty"}))
    path.write_text(json.dumps([{"prompt": "q", "completion": "a"}]))
    with pytest.raises(DataError, match="the row is no preference pair"):
        run_training(reward_config(**options, **{"run.name": "none"}))


def test_a_section_of_another_objective_is_an_error(reward_config) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ConfigError, ValueError), match=r"'reward' has no effect under objective\.name 'sft'"):
        reward_config(**{"objective.name": "sft", "objective.reward": {"center_coefficient": 0.1}})


def test_main_with_the_documented_flags(pairs_file: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{model_name_or_path: {tiny_llama_dir}}}\n"
        f"data: {{train: {pairs_file}, template: alpaca}}\n"
        "adapter: {rank: 4}\ntrain: {max_steps: 2, batch_size: 4, save_steps: 1}\n"
    )
    command = [sys.executable, str(ROOT / "main.py"), "--config", str(config), "--mode", "train"]
    done = subprocess.run(
        [*command, "--algorithm", "reward", "--experiment_name", "NAME"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "NAME"
    assert (run / "config_used.yaml").is_file()
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert (run / "final_model" / "adapter_config.json").is_file()
