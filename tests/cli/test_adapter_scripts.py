"""The documented command lines of `merge_peft_model.py` and `scripts/peft_model_manager.py`, word for word."""

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from loratory.adapter.certificate import FILE_NAME
from random_adapter import write_adapter

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base B and an adapter of it A, as the documents call them."""
    (tmp_path / "B").symlink_to(tiny_llama_dir)
    write_adapter(tiny_llama_dir, tmp_path / "A", target_modules="all-linear")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the script itself in this process; returns its exit code."""
    words = shlex.split(command)
    assert words[0] == "python"
    monkeypatch.setattr(sys, "argv", words[1:])
    try:
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_merge_script(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("python merge_peft_model.py --check_adapter A", monkeypatch) == 0
    told = capsys.readouterr().out
    assert "sound" in told
    assert "28 tensors" in told  # A and B of 7 layers in each of 2 blocks
    assert run("python merge_peft_model.py --base_model B --adapter_path A --output_path O", monkeypatch) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json", FILE_NAME} <= {
        path.name for path in Path("O").iterdir()
    }
    assert AutoModelForCausalLM.from_pretrained("O").num_parameters() == (
        AutoModelForCausalLM.from_pretrained("B").num_parameters()
    )
    capsys.readouterr()
    assert run("python merge_peft_model.py --validate O", monkeypatch) == 0
    told = capsys.readouterr().out
    assert "no adapter layers remain" in told
    assert "broken" not in told


def test_manager_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = "python scripts/peft_model_manager.py --action save --model_path A --output_path models/adapters/first"
    assert run(save, monkeypatch) == 0
    assert load_file("models/adapters/first/adapter_model.safetensors").keys() == (
        load_file("A/adapter_model.safetensors").keys()
    )
    merge = (
        "python scripts/peft_model_manager.py --action merge --base_model B --adapter_path models/adapters/first "
        "--output_path models/merged_models/first --torch_dtype float16"
    )
    assert run(merge, monkeypatch) == 0
    merged = load_file("models/merged_models/first/model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float16}
    certificate = json.loads(Path("models/merged_models/first", FILE_NAME).read_text("utf-8"))
    assert certificate["measured"]["mean_kl_nats"] < 1e-3 < certificate["effect"]["mean_kl_nats"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python merge_peft_model.py", "--check_adapter A, or"),
        ("python merge_peft_model.py --adapter_path A --output_path O", "needs --base_model B"),
        ("python scripts/peft_model_manager.py --action save --output_path O", "needs --model_path P"),
        ("python scripts/peft_model_manager.py --action merge --adapter_path A --output_path O", "--base_model B"),
    ],
)
def test_incomplete_flags_are_told(
    command: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, monkeypatch) == 2
    assert words in capsys.readouterr().err


def test_a_broken_adapter_ends_with_code_4(folder: Path) -> None:
    tensors = folder / "A" / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    done = subprocess.run(
        [sys.executable, str(ROOT / "merge_peft_model.py"), "--check_adapter", "A"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert "do not use it" in done.stderr
