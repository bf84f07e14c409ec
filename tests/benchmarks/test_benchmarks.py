"""The harness: contestants do the same work, and the tables say what was measured."""

import json
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from benchmarks.contestants import gemm, ours, peft_trainer
from benchmarks.measure import Measurement
from benchmarks.table import loss_gap, tables
from benchmarks.work import ALPHA, RANK, TARGETS, Work
from transformers import AutoModelForCausalLM

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT's
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture
def work_file(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    work = Work(
        data="random",
        model=str(tiny_llama_dir),
        adapter=str(tmp_path / "adapter"),
        rows=str(tmp_path / "rows.json"),
        records="",
        batch_size=4,
        micro_batch_size=2,
        num_steps=3,
        learning_rate=1e-2,
        num_threads=1,
        seed=1,
    )
    rng = np.random.default_rng(0)
    template = rng.integers(6, 400, 20).tolist()
    rows = []
    for _ in range(work.num_steps * work.batch_size):
        ids = [*template, *rng.integers(6, 400, rng.integers(3, 12)).tolist()]
        rows.append({"input_ids": ids, "labels": [*([-100] * 21), *ids[21:]]})
    Path(work.rows).write_text(json.dumps(rows))
    torch.manual_seed(0)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), config).save_pretrained(work.adapter)
    work.write(tmp_path / "work.json")
    return tmp_path / "work.json"


def measured(module: object, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measurement:
    result = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["contestant", *arguments, str(result)])
    module.main()
    return Measurement(**json.loads(result.read_text()))


def test_contestants_have_one_loss_curve(work_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {
        "ours": [measured(ours, [str(work_file)], tmp_path, monkeypatch)],
        "nothing shared": [measured(ours, [str(work_file), "--no-share"], tmp_path, monkeypatch)],
        "peft": [measured(peft_trainer, [str(work_file)], tmp_path, monkeypatch)],
        "peft-sorted": [measured(peft_trainer, [str(work_file), "--sort-within-step"], tmp_path, monkeypatch)],
    }
    assert len(set(runs["ours"][0].losses)) == 3
    for name in runs:
        assert loss_gap(runs, name) < 1e-3
    for run in (runs["ours"][0], runs["peft"][0]):
        assert len(run.step_seconds) == 3
        assert run.peak_bytes >= run.base_bytes > 0
    notes, unshared = runs["ours"][0].notes, runs["nothing shared"][0].notes
    assert notes["labels"] == unshared["labels"]
    assert unshared["unique_tokens"] - notes["unique_tokens"] == 3 * 20  # one copy of the template in four is kept


def test_gemm_bound_counts_tokens_and_labels(work_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = measured(gemm, [str(work_file), "64.2", "8"], tmp_path, monkeypatch)
    assert bound.step_seconds == [bound.notes["layers_s"] + bound.notes["head_s"]]
    assert bound.notes["gflops"] > 0


def test_table() -> None:
    fast = Measurement([9.0, 1.0, 1.0], [2.0, 1.5, 1.25], 300_000_000, 100_000_000, 7.0, {"unique_tokens": 10})
    slow = Measurement([9.0, 4.0, 4.0], [2.0, 1.5, 1.0], 900_000_000, 100_000_000, 8.0, {})
    bound = Measurement([0.8], [], 0, 0, 0.0, {"gflops": 150.0})
    assert fast.samples_per_s(16) == 16
    runs = {"ours": [fast], "peft-sorted": [slow], "peft-tuned": [slow]}
    work = {"data": "rows", "num_steps": 3, "batch_size": 16, "num_threads": 2}
    as_dicts = {
        name: [{field: getattr(m, field) for field in Measurement.__slots__} for m in measurements]
        for name, measurements in (*runs.items(), ("bounds", [bound]))
    }
    bounds = as_dicts.pop("bounds")
    gaps = {name: loss_gap(runs, name) for name in runs}
    assert gaps == {"ours": 0.25, "peft-sorted": 0.0, "peft-tuned": None}
    table = tables([{"work": work, "runs": as_dicts, "bounds": bounds, "loss_gap": gaps}])
    assert "| ours | 16.00 | 1.00× | 200 | 2.5e-01 | 0.80 | 7 |" in table
    assert "| peft-tuned | 4.00 | 4.00× | 800 |  | 0.20 | 8 |" in table
