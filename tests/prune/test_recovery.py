"""`loratory prune` and `finetune_lora.py` as a user calls them: real processes, one and two of them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner

from loratory.adapter.certificate import FILE_NAME
from loratory.cli.app import make_app
from loratory.config import ModelConfig
from loratory.model import load_model
from loratory.model.uneven import shapes_of
from loratory.run import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "finetune_lora.py"
SMALL = [
    *("--val_set_size=4", "--batch_size=8", "--micro_batch_size=2", "--num_epochs=1", "--learning_rate=0.02"),
    *("--lora_r=4", "--lora_dropout=0", "--cutoff_len=128", "--skip_evaluation"),
    *("train.num_threads=1", "train.logging_steps=1"),
]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "own.json"
    words = ("plan", "roaming", "cancel", "intro")
    path.write_text(
        json.dumps([{"instruction": f"{words[i % 4]} {i}", "input": "", "output": words[i % 4]} for i in range(36)])
    )
    return path


@pytest.fixture(scope="session")
def pruned_bin(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "TINY_20"
    command = ["prune", str(tiny_llama_dir), "--output", str(folder), "--format", "pickle", "--layers", "0-1"]
    found = CliRunner().invoke(make_app(), [*command, "--ratio", "0.3"])
    assert found.exit_code == 0, found.output
    assert "prunable parameters" in found.output
    return folder / "pruned_model.bin"


def call(*command: str, cache: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LORATORY_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="session")
def recovered(pruned_bin: Path, rows: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "one"
    found = call(
        sys.executable, str(SCRIPT), "--pruned_model", str(pruned_bin), "--data_path", str(rows), "--output_dir",
        str(folder), *SMALL, cache=cache,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert str(folder / "pruned_model.bin") in found.stdout
    return folder


def test_the_documented_layout(recovered: Path, pruned_bin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATORY_CACHE", str(cache))
    assert list(recovered.glob("checkpoint-*"))
    adapter = recovered / "lora_adapter"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in adapter.iterdir()}
    assert (recovered / "merged_model" / FILE_NAME).is_file()
    base = load_model(ModelConfig(model_name_or_path=str(pruned_bin)), device="cpu").model
    whole = load_model(ModelConfig(model_name_or_path=str(recovered / "pruned_model.bin")), device="cpu").model
    assert shapes_of(whole) == shapes_of(base)
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        before = base(ids).logits.clone()
        after = PeftModel.from_pretrained(base, str(adapter))(ids).logits
        merged = whole(ids).logits
    torch.testing.assert_close(merged, after, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.kill
def test_two_processes_give_the_losses_of_one(recovered: Path, pruned_bin: Path, rows: Path, cache: Path) -> None:
    folder = recovered.with_name("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = call(
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", str(SCRIPT),
        "--pruned_model", str(pruned_bin), "--data_path", str(rows), "--output_dir", str(folder), *SMALL, cache=cache,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert (folder / "pruned_model.bin").is_file()
    assert json.loads((folder / "provenance.json").read_text())["num_processes"] == 2
    assert len(losses(folder)) == 4
    assert losses(folder) == pytest.approx(losses(recovered), rel=1e-5)


def test_a_finished_run_mends_what_is_missing_behind_it(
    recovered: Path, pruned_bin: Path, rows: Path, cache: Path
) -> None:
    """As after a stop between training and writing."""
    before = losses(recovered)
    (recovered / "pruned_model.bin").unlink()
    found = call(
        sys.executable, str(SCRIPT), "--pruned_model", str(pruned_bin), "--data_path", str(rows),
        "--resume_from_checkpoint", str(next(recovered.glob("checkpoint-*"))), *SMALL, cache=cache,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "is finished" in found.stderr
    assert (recovered / "pruned_model.bin").is_file()
    assert losses(recovered) == before


def test_evaluation_stands_beside_the_model(
    recovered: Path, pruned_bin: Path, rows: Path, cache: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the answer is yes. the plan is no. " * 40, encoding="utf-8")
    flags = [flag for flag in SMALL if flag != "--skip_evaluation"]
    found = call(
        sys.executable, str(SCRIPT), "--pruned_model", str(pruned_bin), "--data_path", str(rows), "--output_dir",
        str(recovered), "--resume_from_checkpoint", "--eval_metrics", "ppl",
        *flags, f"evaluation.perplexity_texts=[{text}]", "evaluation.perplexity_window=64", cache=cache,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    results = json.loads((recovered / "evaluation" / "evaluation_results.json").read_text())
    assert results["status"] == "complete"
    assert results["parts"]["ppl"]["measures"][0]["value"] > 1


def test_own_templates_by_name(pruned_bin: Path, rows: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    template = {
        "description": "own",
        "prompt_input": "Q: {instruction} {input}\nA: ",
        "prompt_no_input": "Q: {instruction}\nA: ",
        "response_split": "A:",
    }
    (tmp_path / "templates" / "mine.json").write_text(json.dumps(template))
    found = call(
        sys.executable, str(SCRIPT), "--pruned_model", str(pruned_bin), "--data_path", str(rows),
        "--prompt_template_name", "mine", *SMALL, "train.max_steps=1", cache=cache, cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "results" / "TINY_20_finetuned" / "pruned_model.bin").is_file()
    contract = json.loads((tmp_path / "results" / "TINY_20_finetuned" / "template.json").read_text())
    assert contract["name"] == "templates/mine.json"


def test_a_pruned_folder_says_what_was_done(tiny_llama_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the answer is yes. " * 400, encoding="utf-8")
    command = ["prune", str(tiny_llama_dir), "--output", str(tmp_path / "pruned"), "--layers", "0-1"]
    found = CliRunner().invoke(make_app(), [*command, "--calibration", str(text), "--calibration-windows", "2"])
    assert found.exit_code == 0, found.output
    assert "(taylor, global)" in found.output
    record = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    assert record["settings"]["importance"] == "taylor"
    assert record["calibration_windows"] == 2
    assert record["parameters_after"] < record["parameters_before"]
    loaded = load_model(ModelConfig(model_name_or_path=str(tmp_path / "pruned")), device="cpu").model
    assert [layer.ffn_width for layer in shapes_of(loaded).layers] == [
        layer["ffn_width"] for layer in record["shapes_after"]
    ]
    again = CliRunner().invoke(make_app(), [*command])
    assert again.exit_code == 2
    assert "exists already" in again.output


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--layers", "x"], "--layers"), (["--format", "zip"], "--format"), (["--ratio", "2"], "--ratio: got 2.0")],
)
def test_wrong_options_are_refused(options: list[str], said: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(make_app(), ["prune", str(tiny_llama_dir), "--output", str(tmp_path / "p"), *options])
    assert found.exit_code == 2
    assert said in found.output
    assert not (tmp_path / "p").exists()
