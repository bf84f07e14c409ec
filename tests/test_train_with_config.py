"""`train_with_config.py`: what it prints is the run, and running what it prints is the same run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from loratory.run import read_metrics

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = ROOT / "config" / "lora_llama2_7b_rank4.json"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    texts = [f"{'the answer to this question ' * (i % 5)}is {i}" for i in range(40)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def script(folder: Path, model: Path, rows: Path, output: str, *more: str) -> str:
    """Run the script; its standard output."""
    flags = ["--model_path", str(model), "--dataset_name", str(rows), "--output_dir", output, "--num_epochs", "2"]
    command = [sys.executable, str(ROOT / "train_with_config.py"), *flags, "--config", str(ADAPTER), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_words(output: str) -> list[str]:
    words = shlex.split(output.replace("\\\n", " "))
    assert words[:2] == ["loratory", "sft"]
    return words


def test_without_execute_it_prints_and_writes_nothing(tmp_path: Path, tiny_llama_dir: Path, rows: Path) -> None:
    words = printed_words(script(tmp_path, tiny_llama_dir, rows, "out/a b"))
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert flags["--output_dir"] == "out/a b"
    assert flags["--num_train_epochs"] == "2"
    assert flags["--lora_r"] == "4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_the_printed_command_is_the_run_that_execute_does(tmp_path: Path, tiny_llama_dir: Path, rows: Path) -> None:
    words = printed_words(script(tmp_path, tiny_llama_dir, rows, "out/printed"))
    launcher = [sys.executable, "-m", *words]
    printed = subprocess.run(launcher, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert printed.returncode == 0, printed.stderr
    assert "no GPU: trained in the precision of the weights" in printed.stderr
    script(tmp_path, tiny_llama_dir, rows, "out/executed", "--execute")
    runs = [read_metrics(tmp_path / "out" / name / "metrics.jsonl") for name in ("printed", "executed")]
    seen = [[(line["step"], line["loss"], line["grad_norm"]) for line in run] for run in runs]
    assert seen[0] == seen[1]
    assert seen[0][-1][0] == 6  # 40 rows by 16 a step are 3 steps, twice
    weights = [
        (tmp_path / "out" / name / "final_model" / "adapter_model.safetensors") for name in ("printed", "executed")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_no_adapter_file_is_one_message(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train_with_config.py"), "--model_path", "m", "--dataset_name", "d"]
    command += ["--config", "gone.json", "--output_dir", "o", "--num_epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: gone.json: no such file\n"


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loratory", "sft", "--model_name_or_path", "m", "--lora_rr", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--lora_rr: PEFT's examples/sft has no such setting. Did you mean 'lora_r'?" in done.stderr
