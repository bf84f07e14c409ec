"""A reward model by `main.py`, PPO that learns from it, and what the other verbs say about the two."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app

ROOT = Path(__file__).resolve().parents[2]
RUN = """
model: {{model_name_or_path: {model}}}
data: {{train: {rows}, template: chat, cutoff_len: 500, truncation: drop, max_samples: 60}}
adapter: {{rank: 4}}
train: {{batch_size: 4, max_steps: 2, save_steps: 1, learning_rate: 1.0e-3, num_threads: 1}}
"""


def run_main(folder: Path, *flags: str) -> str:
    """What the user reads."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "main.py"), "--config", "run.yaml", "--mode", "train", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def folder(tiny_llama_dir: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run file for real preference pairs, in which a reward model has been trained."""
    folder = tmp_path_factory.mktemp("objectives")
    rows = shared_data / "llamafactory_demo" / "dpo_en_demo.json"
    (folder / "run.yaml").write_text(RUN.format(model=tiny_llama_dir, rows=rows))
    read = run_main(folder, "--algorithm", "reward", "--experiment_name", "judge")
    assert "accuracy " in read
    assert "margin " in read
    return folder


def test_ppo_learns_from_a_trained_reward_model(folder: Path) -> None:
    reward = ["objective.rollout.reward=model", "objective.rollout.reward_model=outputs/judge"]
    short = ["objective.rollout.max_new_tokens=6", "objective.ppo.epochs=1", "data.cutoff_len=400"]
    read = run_main(folder, "--algorithm", "ppo", "--experiment_name", "policy", *reward, *short)
    assert "  reward " in read
    assert "  KL 0.000 per answer" in read  # the first rollout is the starting policy's own
    run = folder / "outputs" / "policy"
    assert {"checkpoint-1", "checkpoint-2", "final_model", "config_used.yaml"} <= {p.name for p in run.iterdir()}
    assert {"adapter_config.json", "beside.safetensors"} <= {p.name for p in (run / "final_model").iterdir()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert all(math.isfinite(line[name]) for name in ("loss", "reward", "kl_per_answer", "entropy"))
        assert line["failed_rewards"] == 0
    assert lines[0]["reward"] != lines[1]["reward"]


def test_a_reward_model_answers_no_rows(folder: Path) -> None:
    result = CliRunner().invoke(make_app(), ["predict", str(folder / "outputs" / "judge")])
    assert result.exit_code != 0
    assert "a reward model gives scores, not answers" in f"{result.output}{result.exception}"


def test_an_adapter_with_a_head_is_not_merged(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    result = CliRunner().invoke(
        make_app(), ["adapter", "merge", str(folder / "outputs" / "judge"), "--output", str(output)]
    )
    assert result.exit_code != 0
    assert "belongs to a reward model or classifier" in f"{result.output}{result.exception}"
    assert not output.exists()
