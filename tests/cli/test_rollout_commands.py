"""`main.py --algorithm ppo|grpo|rloo` with a reward function from the command line, and a run file that names one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
model: {{model_name_or_path: {model}}}
data: {{train: rows.json, template: alpaca}}
adapter: {{rank: 4}}
objective: {{name: sft}}
train: {{batch_size: 4, max_steps: 2, num_threads: 1, save_steps: 1}}
"""


def run_main(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "main.py"), "--config", "run.yaml", "--mode", "train", *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    rows = [{"instruction": f"How much is plan {i}?", "input": "", "output": str(i)} for i in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "run.yaml").write_text(RUN.format(model=tiny_llama_dir))
    (tmp_path / "rewards.py").write_text("def score(prompt, answer, label):\n    return len(answer)\n")
    return tmp_path


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_the_documented_command(folder: Path, algorithm: str) -> None:
    flags = ["--algorithm", algorithm, "--experiment_name", "paid", "--reward-function", "rewards:score"]
    done = run_main(folder, *flags, "objective.rollout.max_new_tokens=4", "objective.rollout.samples_per_prompt=2")
    assert done.returncode == 0, done.stderr
    run = folder / "outputs" / "paid"
    assert {"checkpoint-1", "checkpoint-2", "final_model", "config_used.yaml"} <= {p.name for p in run.iterdir()}
    final = {path.name for path in (run / "final_model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= final
    assert ("beside.safetensors" in final) == (algorithm == "ppo")
    assert "rewards:score" not in (run / "config_used.yaml").read_text()


def test_a_run_file_that_names_code_is_refused(folder: Path) -> None:
    text = (
        (folder / "run.yaml").read_text().replace("name: sft", "name: ppo, rollout: {reward_function: rewards:score}")
    )
    (folder / "run.yaml").write_text(text)
    done = run_main(folder, "--algorithm", "ppo")
    assert done.returncode == 3
    assert "--reward-function MODULE:FUNCTION on the command line" in done.stderr
