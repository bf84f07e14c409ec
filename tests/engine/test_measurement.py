"""plan.json: what a run was forecast and what it measured; of runs that share a process, what is their own."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import transformers
from rich.console import Console

from loratory.config import RunConfig
from loratory.engine.forecast.record import read_record, tensor_bytes
from loratory.engine.together import train_together
from loratory.engine.training import run_training

MakeConfig = Callable[..., RunConfig]


def measured(folder: Path) -> tuple[int | None, float | None, bool]:
    """Peak, seconds a step, and whether numbers and files came out as forecast."""
    record = read_record(folder)
    assert record is not None
    assert record.measured is not None
    names = ("trainable", "final_bytes", "checkpoint_bytes")
    is_exact = all(getattr(record.predicted, name) == getattr(record.measured, name) for name in names)
    return record.measured.peak_bytes, record.measured.step_seconds, is_exact


def test_a_run_of_its_own_records_peak_and_pace(make_config: MakeConfig) -> None:
    result = run_training(make_config({"run.name": "own"}), console=Console(file=io.StringIO()))
    peak, seconds, is_exact = measured(result.run_dir)
    assert peak is not None
    assert peak > 2**20
    assert seconds is not None
    assert is_exact


def test_a_small_run_after_a_big_one_records_its_own_peak(
    make_config: MakeConfig, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    wide = transformers.AutoConfig.from_pretrained(tiny_llama_dir, hidden_size=512, intermediate_size=2048)
    wide_dir = shutil.copytree(tiny_llama_dir, tmp_path / "wide")
    transformers.LlamaForCausalLM(wide).save_pretrained(wide_dir)
    full = {"model.model_name_or_path": str(wide_dir), "adapter.method": "full", "train.learning_rate": 1e-4}
    needs = []
    for name, settings in {"big": full, "small": {}}.items():
        config = make_config({"run.name": name, "train.max_steps": 2, **settings})
        record = read_record(run_training(config, console=Console(file=io.StringIO())).run_dir)
        assert record is not None
        assert record.measured is not None
        assert record.measured.peak_bytes is not None
        needs.append(record.measured.peak_bytes)
    weights_bytes = tensor_bytes(wide_dir)
    assert needs[0] - needs[1] > 2 * weights_bytes > 2**25


def test_what_several_runs_used_is_not_recorded_as_the_need_of_one(make_config: MakeConfig) -> None:
    configs = [make_config({"run.name": f"shared-{rank}", "adapter.rank": rank}) for rank in (2, 4)]
    outcomes = train_together(configs, consoles=[Console(file=io.StringIO()) for _ in configs])
    for outcome in outcomes:
        assert outcome.result is not None
        assert measured(outcome.result.run_dir) == (None, None, True)
