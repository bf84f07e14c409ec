"""The plan of a run, and the errors that training would give later."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loratory.cli.app import make_app
from loratory.config import RunConfig, build_config
from loratory.errors import ConfigError, DataError, ModelError
from loratory.plan.devices import device
from loratory.plan.planning import Plan, make_plan, on_device
from loratory.plan.tables import notes_below

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def values(tiny_llama_dir: Path, folder: Path) -> dict[str, Any]:
    rows = [{"instruction": f"say {i}", "input": "", "output": "yes it is " * (1 + i % 3)} for i in range(40)]
    (folder / "rows.json").write_text(json.dumps(rows))
    return {
        "model": {"model_name_or_path": str(tiny_llama_dir)},
        "data": {"train": str(folder / "rows.json"), "template": "alpaca"},
        "train": {"batch_size": 8, "num_epochs": 2, "num_threads": 1},
        "run": {"output_dir": str(folder / "outputs")},
    }


@pytest.fixture
def config(tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("LORATORY_CACHE", str(tmp_path / "cache"))
    return build_config(values(tiny_llama_dir, tmp_path), ())


def planned(config: RunConfig, **options: Any) -> Plan:
    return make_plan(config, may_calibrate=False, note=lambda line: None, **options)


def test_a_plan(config: RunConfig) -> None:
    plan = planned(config, devices=[device("4090")])
    forecast = plan.forecast
    assert (forecast.path, forecast.steps_per_epoch, forecast.total_steps) == ("fused", 5, 10)
    assert forecast.computed_tokens < 0.7 * forecast.row_tokens  # the template is shared
    assert forecast.size.trained == plan.report.trainable
    assert forecast.step_seconds is None
    by_name = {variant.name: variant.forecast for variant in plan.variants}
    lora, packed, full = by_name["LoRA"], by_name["QLoRA"], by_name["full"]
    assert lora is not None
    assert packed is not None
    assert full is not None
    assert packed.memory.quantised_weights > 0
    assert packed.memory.weights < lora.memory.weights  # its path is another one, which keeps more
    assert lora.memory.total < full.memory.total
    assert full.size.adapter_share == 1.0
    assert plan.devices[0].forecast.step_seconds


def test_memory_that_is_too_small_gets_advice_that_fits(config: RunConfig) -> None:
    wide = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_size": 8})})
    enough = planned(wide).peak_bytes
    assert planned(wide, memory_gib=2 * enough / 2**30).fits
    plan = planned(wide, memory_gib=(enough - 200_000) / 2**30)
    assert plan.fits is False
    assert plan.advice
    assert plan.advice[0].overrides[0].startswith("train.micro_batch_size=")
    assert all(each.peak_bytes <= enough - 200_000 for each in plan.advice)


def test_what_training_would_refuse(config: RunConfig, tiny_llama_dir: Path, tmp_path: Path) -> None:
    no_model = {**values(tiny_llama_dir, tmp_path), "model": {"model_name_or_path": "./absent"}}
    with pytest.raises(ModelError, match="absent"):
        planned(build_config(no_model, ()))
    no_rows = build_config(values(tiny_llama_dir, tmp_path), ("data.train=absent.json",))
    with pytest.raises(DataError, match="absent"):
        planned(no_rows)
    with pytest.raises(ConfigError, match="Did you mean 'a4000'"):
        device("a400")


def test_the_command(config: RunConfig, tiny_llama_dir: Path, tmp_path: Path) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(json.dumps(values(tiny_llama_dir, tmp_path)))
    result = CliRunner().invoke(make_app(), ["plan", str(run_file), "--no-calibrate", "--memory", "16"])
    assert result.exit_code == 0, result.output
    for words in ("Memory at the peak", "fits", "QLoRA", "of full", "H100", "a checkpoint", "usual for"):
        assert words in result.output
    result = CliRunner().invoke(make_app(), ["plan", str(tmp_path / "outputs"), "--history"])
    assert result.exit_code == 2
    assert "no finished run with a plan.json" in result.output


def test_a_gpu_computes_in_the_number_format_of_the_run(config: RunConfig) -> None:
    turing = device("t4")
    as_it_is = on_device(turing, config).machine  # no bfloat16, so that auto is float32
    half = on_device(turing, config.model_copy(update={"model": config.model.model_copy(update={"dtype": "float16"})}))
    assert as_it_is is not None
    assert half.machine is not None
    assert half.machine.gemm[-1].flops_per_s / as_it_is.gemm[-1].flops_per_s == pytest.approx(65 / 8.1)


def test_dropout_is_planned_without_it_too(config: RunConfig) -> None:
    dropped = config.model_copy(update={"adapter": config.adapter.model_copy(update={"dropout": 0.1})})
    plan = planned(dropped)
    paths = {each.name: each.forecast.path for each in plan.variants if each.forecast}
    assert (plan.forecast.path, paths["LoRA"], paths["no dropout"]) == ("padded", "padded", "fused")
    assert "no dropout" not in {each.name for each in planned(config).variants}


def test_a_method_is_compared_under_its_own_name(config: RunConfig) -> None:
    section = type(config.adapter)(method="loha", options={"r": 2})
    plan = planned(config.model_copy(update={"adapter": section}))
    names = {each.name: each for each in plan.variants}
    assert set(names) == {"loha", "loha, 4 bits", "full"}
    assert names["loha"].is_planned
    assert any("loha, 4 bits: " in line for line in notes_below(plan))
