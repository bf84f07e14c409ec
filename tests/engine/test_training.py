"""Whole runs on a tiny model: outputs, golden losses, refusals."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from loratory.config import RunConfig
from loratory.engine.result import TrainingResult
from loratory.engine.training import run_training
from loratory.errors import DataError, IntegrityError, RunError
from loratory.run import read_metrics

MakeConfig = Callable[..., RunConfig]

GOLDEN = Path(__file__).parent / "golden_sft.json"


def run(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> tuple[TrainingResult, str]:
    out = io.StringIO()
    result = run_training(config, resume=resume, overwrite=overwrite, console=Console(file=out, width=200))
    return result, out.getvalue()


def write_rows(path: Path, num_rows: int, **fields: str) -> str:
    rows = [{"instruction": f"question {i}", "input": "", "output": f"answer {i}", **fields} for i in range(num_rows)]
    path.write_text(json.dumps(rows))
    return str(path)


def test_golden_losses(make_config: MakeConfig) -> None:
    """The first five losses of a fixed run; a change of theirs needs a reason in its commit."""
    result, _ = run(make_config({"train.max_steps": 5}))
    losses = [line["loss"] for line in read_metrics(result.run_dir / "metrics.jsonl")]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())["losses"], abs=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own loader
def test_a_run_leaves_what_the_next_stages_need(make_config: MakeConfig, tiny_llama_dir: Path) -> None:
    result, shown = run(make_config({"train.num_epochs": 2, "data.val_size": 4, "run.trackers": ["tensorboard"]}))
    folder = result.run_dir
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert names == {
        "config.yaml",
        "config_used.yaml",
        "provenance.json",
        "template.json",
        "metrics.jsonl",
        "plan.json",
        "tensorboard",
        "checkpoint-5",
        "checkpoint-10",
        "final_model",
    }
    assert (folder / "config.yaml").read_text() == (folder / "config_used.yaml").read_text()
    assert json.loads((folder / "template.json").read_text())["name"] == "alpaca"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        p.name for p in result.final_model.iterdir()
    }
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 11))
    assert {"epoch", "grad_norm", "learning_rate", "tokens_per_s", "supervised_tokens", "token_accuracy"} <= set(
        lines[0]
    )
    assert [line["step"] for line in lines if "eval_loss" in line] == [5, 10]
    assert lines[-1]["eval_loss"] == result.best_loss
    assert result.best_step == 10
    assert "trainable 4,096 of" in shown
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), str(result.final_model))
    assert any(p.any() for n, p in model.named_parameters() if "lora_B" in n)


def test_it_learns(make_config: MakeConfig) -> None:
    result, _ = run(make_config({"train.num_epochs": 12, "train.learning_rate": 0.02, "train.logging_steps": 6}))
    losses = [float(line["loss"]) for line in read_metrics(result.run_dir / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.3  # random frozen embeddings and head leave little room


def test_the_best_checkpoint_becomes_the_final_model(make_config: MakeConfig) -> None:
    config = make_config(
        {
            "train.num_epochs": 40,
            "train.learning_rate": 0.2,  # far too high: later evaluations are worse
            "train.schedule": "constant",
            "train.eval_steps": 1,
            "train.early_stopping_patience": 3,
            "data.val_size": 4,
        }
    )
    result, shown = run(config)
    evaluations = {
        line["step"]: line["eval_loss"]
        for line in read_metrics(result.run_dir / "metrics.jsonl")
        if "eval_loss" in line
    }
    assert result.best_step == min(evaluations, key=lambda step: evaluations[step])
    assert result.step == result.best_step + 3
    assert "no gain in 3 evaluations" in shown
    best = load_file(result.run_dir / f"checkpoint-{result.best_step}" / "adapter_model.safetensors")
    last = load_file(result.run_dir / f"checkpoint-{result.step}" / "adapter_model.safetensors")
    final = load_file(result.final_model / "adapter_model.safetensors")
    assert all(torch.equal(final[n], best[n]) for n in final)
    assert any(not torch.equal(final[n], last[n]) for n in final)


def test_full_fine_tuning_leaves_a_standard_model(make_config: MakeConfig, tiny_llama_dir: Path) -> None:
    result, _ = run(make_config({"adapter.method": "full", "train.max_steps": 3}))
    for folder in (result.final_model, result.run_dir / "checkpoint-3"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
        assert any(
            not torch.equal(a, b) for a, b in zip(model.state_dict().values(), base.state_dict().values(), strict=True)
        )
    final = AutoModelForCausalLM.from_pretrained(result.final_model).state_dict()
    saved = AutoModelForCausalLM.from_pretrained(result.run_dir / "checkpoint-3").state_dict()
    assert all(torch.equal(final[name], saved[name]) for name in final)


def test_gradient_checkpointing_and_grouping_change_no_loss(make_config: MakeConfig) -> None:
    plain, _ = run(make_config({"train.max_steps": 3, "run.name": "plain"}))
    recomputed, _ = run(make_config({"train.max_steps": 3, "train.gradient_checkpointing": True, "run.name": "re"}))
    assert recomputed.loss == pytest.approx(plain.loss, abs=1e-6)
    grouped, _ = run(make_config({"train.num_epochs": 1, "train.group_by_length": True, "run.name": "grouped"}))
    assert grouped.step == 6


def test_bfloat16_autocast_trains(make_config: MakeConfig) -> None:
    plain, _ = run(make_config({"train.max_steps": 2, "run.name": "plain"}))
    mixed, _ = run(make_config({"train.max_steps": 2, "train.precision": "bfloat16", "run.name": "mixed"}))
    assert mixed.loss == pytest.approx(plain.loss, rel=0.02)
    assert mixed.loss != plain.loss


def test_a_bfloat16_base_trains(make_config: MakeConfig) -> None:
    plain, _ = run(make_config({"train.max_steps": 2, "run.name": "plain"}))
    narrow, _ = run(make_config({"train.max_steps": 2, "model.dtype": "bfloat16", "run.name": "narrow"}))
    assert narrow.loss == pytest.approx(plain.loss, rel=0.02)


def test_a_finished_run_is_refused_without_resume_and_left_alone_with_it(make_config: MakeConfig) -> None:
    config = make_config({"train.max_steps": 1})
    first, _ = run(config)
    with pytest.raises(RunError, match="finished run"):
        run(config)
    again, shown = run(config, resume=True)
    assert again.was_finished
    assert (again.step, again.loss) == (first.step, first.loss)
    assert "this run is finished" in shown
    assert run(config, overwrite=True)[0].step == 1


def test_resume_of_nothing_begins(make_config: MakeConfig) -> None:
    assert run(make_config({"train.max_steps": 1}), resume=True)[0].step == 1


def test_resume_under_changed_data_or_rates_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    config = {"data.train": write_rows(data, 9), "train.max_steps": 2}
    result, _ = run(make_config(config))
    result.final_model.rename(tmp_path / "gone")  # as if killed before it was published
    before = {p: p.stat().st_mtime_ns for p in result.run_dir.rglob("*") if p.is_file() and p.name != ".lock"}
    write_rows(data, 8)
    with pytest.raises(IntegrityError, match=r"(?s)train\.weight_decay: 0\.0 then, 0\.5 now.*data\.train"):
        run(make_config({**config, "train.weight_decay": 0.5}), resume=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    write_rows(data, 9)
    assert run(make_config(config), resume=True)[0].step == 2
    assert result.final_model.exists()


def test_a_batch_larger_than_the_data_is_fine(make_config: MakeConfig, tmp_path: Path) -> None:
    result, _ = run(make_config({"data.train": write_rows(tmp_path / "t.json", 3), "train.batch_size": 64}))
    assert result.step == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rows": 0}, "no rows"),
        ({"data.cutoff_len": 8, "data.truncation": "drop"}, "cutoff_len"),
        ({"data.cutoff_len": 8}, "cutoff_len"),
        ({"output": "", "data.add_eos_token": False}, "output"),
    ],
    ids=["no rows", "all dropped", "all too long", "nothing supervised"],
)
def test_unusable_data_stops_before_anything_is_written(
    make_config: MakeConfig, tmp_path: Path, overrides: dict[str, object], message: str
) -> None:
    fields = {"output": str(overrides.pop("output"))} if "output" in overrides else {}
    train = write_rows(tmp_path / "t.json", int(str(overrides.pop("rows", 4))), **fields)
    config = make_config({"data.train": train, **overrides})
    with pytest.raises(DataError, match=message):
        run(config)
    assert not (tmp_path / "outputs" / "tiny").exists()


def test_evaluation_and_periodic_saves_do_not_change_training(make_config: MakeConfig) -> None:
    rows = {"data.val_size": 4, "adapter.dropout": 0.1, "train.num_epochs": 2, "train.keep_best": False}
    rare, _ = run(make_config({**rows, "run.name": "rare"}))
    often, _ = run(make_config({**rows, "train.eval_steps": 1, "train.save_steps": 1, "run.name": "often"}))
    one, other = (load_file(r.final_model / "adapter_model.safetensors") for r in (rare, often))
    assert all(torch.equal(one[n], other[n]) for n in one)
