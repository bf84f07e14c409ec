"""The probe changes nothing, measures, and says what to change when memory or disk will not do."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from loratory.config import RunConfig
from loratory.engine import probe
from loratory.engine.forecast.memory import GIB
from loratory.engine.memory_budget import MemoryRoom
from loratory.engine.peak_memory import PeakMemory
from loratory.engine.result import TrainingResult
from loratory.engine.step import TrainStep
from loratory.engine.training import run_training
from loratory.errors import ResourceError
from loratory.run.checkpoints import CheckpointStore

MakeConfig = Callable[..., RunConfig]
# 24 rows, 20 of them for training: 40 passes, enough to be probed.
SETTINGS = {"data.val_size": 4, "train.batch_size": 4, "train.micro_batch_size": 1, "train.num_epochs": 2}


def run(config: RunConfig, *, resume: bool = False) -> tuple[TrainingResult, str]:
    out = io.StringIO()
    result = run_training(config, resume=resume, console=Console(file=out, width=300))
    return result, out.getvalue()


@pytest.mark.parametrize(
    "more", [{}, {"adapter.dropout": 0.1}, {"adapter.method": "full"}], ids=["", "dropout", "full"]
)
def test_a_run_is_the_same_to_the_bit_with_and_without(make_config: MakeConfig, more: dict[str, object]) -> None:
    with_probe, shown = run(make_config({**SETTINGS, **more, "run.name": "with"}))
    without, silent = run(make_config({**SETTINGS, **more, "run.name": "without", "train.probe": False}))
    assert "probe: longest batch" in shown
    assert "probe" not in silent
    for name in ("optimizer.safetensors", "random.safetensors"):
        one, other = (load_file(r.run_dir / "checkpoint-10" / name) for r in (with_probe, without))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    file = "model.safetensors" if "adapter.method" in more else "adapter_model.safetensors"
    one, other = (load_file(r.final_model / file) for r in (with_probe, without))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert with_probe.loss == without.loss


def test_it_leaves_nothing_behind_and_tells_what_it_saw(make_config: MakeConfig) -> None:
    result, shown = run(make_config(SETTINGS))
    assert not [p for p in result.run_dir.iterdir() if p.name.startswith((".stage", ".trash"))]
    line = next(line for line in shown.splitlines() if line.startswith("probe:"))
    assert " GiB, checkpoint " in line
    assert " MiB in 0." in line


def test_short_runs_and_resumed_ones_are_not_probed(make_config: MakeConfig, tmp_path: Path) -> None:
    assert "probe" not in run(make_config({**SETTINGS, "train.max_steps": 1, "run.name": "short"}))[1]
    result, _ = run(make_config(SETTINGS))
    result.final_model.rename(tmp_path / "gone")
    assert "probe" not in run(make_config(SETTINGS), resume=True)[1]


def test_too_little_memory_names_the_knob(make_config: MakeConfig) -> None:
    with pytest.raises(
        ResourceError, match=r"memory_budget_gib allows .*in use before.*gradient_checkpointing"
    ) as caught:
        run(make_config({**SETTINGS, "train.memory_budget_gib": 0.01}))
    assert caught.value.exit_code == 5


def test_a_peak_beyond_the_limit_names_a_number_that_fits(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PeakMemory, "read", lambda self: 2000 * GIB)
    settings = {**SETTINGS, "train.micro_batch_size": None, "train.max_tokens_per_micro_batch": 64}
    with pytest.raises(ResourceError, match=r"longest training batch .* took 2000\.0 GiB"):
        run(make_config({**settings, "train.memory_budget_gib": 1000}))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_running_out_of_memory_is_a_resource_error(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(TrainStep, "backward", fail)
    with pytest.raises(ResourceError, match=r"ran out of memory.*Nothing was trained"):
        run(make_config(SETTINGS))


def test_a_disk_without_room_is_found_before_the_first_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(CheckpointStore, "has_room", lambda self, size: False)
    with pytest.raises(ResourceError, match=r"probe: a checkpoint takes .* no room"):
        run(make_config(SETTINGS))
    assert not (tmp_path / "outputs" / "tiny" / "metrics.jsonl").exists()


def test_advice_scales_with_what_fits() -> None:
    from test_micro_batching import row

    rows = [row(100), row(90)]
    text = probe._advice(rows, 200, fitting=112, base_bytes=4 * GIB)
    assert text == "Set train.max_tokens_per_micro_batch=112 (the loss stays the same, it is only slower)."
    text = probe._advice(rows, 200, fitting=48, base_bytes=4 * GIB)
    assert "train.max_tokens_per_micro_batch=48" in text
    assert "data.cutoff_len=48 (the longest row has 100 tokens)" in text
    assert "saves up to 3.0 GiB" in text
    assert "max_tokens" not in probe._advice(rows[:1], 100, fitting=64, base_bytes=GIB)


def test_the_token_budget_of_a_run_outlives_a_change_of_memory(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from loratory.engine import scoring
    from loratory.engine.state import load_training_state

    config = make_config({"train.max_steps": 2, "train.save_steps": 1})
    tight = MemoryRoom(0, 0, 1000 * GIB, is_given=False)
    monkeypatch.setattr(scoring, "memory_room", lambda *_, **__: tight)
    result, shown = run(config)
    assert "passes of up to 64 tokens, batches of 4 rows as asked" in shown
    assert load_training_state(result.run_dir / "checkpoint-1").progress.tokens_per_pass == 64
    result.final_model.rename(tmp_path / "gone")
    monkeypatch.undo()
    assert "passes of up to 64 tokens, as when the run began" in run(config, resume=True)[1]
