"""PEFT's adapter JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest

from loratory.config.foreign_file import read_foreign_run
from loratory.errors import ConfigError
from loratory.interop.peft_adapter import ADAPTER_DEFAULTS, ADAPTER_RULES


def test_a_saved_adapter_field_by_field(reader: Any) -> None:
    run = reader.files("adapter_config.json")
    assert run.tool == "peft"
    assert reader.departures(run.config) == {
        "model.model_name_or_path": "meta-llama/Llama-2-7b-hf",
        "data.train": "",
        "adapter.rank": 16,
        "adapter.alpha": 16.0,
        "adapter.dropout": 0.05,
        "adapter.bias": "lora_only",
        "adapter.targets": ["v_proj", "q_proj"],
        "adapter.use_dora": True,
        "adapter.init": "pissa_niter_4",
        "adapter.modules_to_save": ["lm_head"],
        "adapter.alpha_pattern": {"q_proj": 32.0},
        "adapter.options": {"layers_to_transform": [0, 1]},
    }
    assert reader.said(run) == {
        "not honoured": {"data.train"},
        "ignored": {"fan_in_fan_out", "inference_mode"},
    }


def test_every_option_of_the_installed_lora_has_a_rule() -> None:
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= set(ADAPTER_RULES)


def test_the_defaults_are_those_of_the_installed_peft() -> None:
    config = peft.LoraConfig()
    assert {name: getattr(config, name) for name in ADAPTER_DEFAULTS} == dict(ADAPTER_DEFAULTS)


def test_an_adapter_file_goes_before_a_run_file(reader: Any, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.json"
    adapter.write_text(json.dumps({"peft_type": "LORA", "r": 3, "target_modules": "all-linear"}))
    run = read_foreign_run([reader.fixtures / "llamafactory_sft.yaml", adapter])
    assert run.tool == "llamafactory and peft"
    # What the file leaves out is PEFT's default, not the run file's value.
    assert run.config.adapter.model_dump(include={"rank", "alpha", "dropout", "targets", "use_rslora"}) == {
        "rank": 3,
        "alpha": 8.0,
        "dropout": 0.0,
        "targets": "all",
        "use_rslora": False,
    }
    assert run.config.train.batch_size == 64


@pytest.mark.parametrize(
    ("values", "targets"),
    [({}, "default"), ({"target_modules": r".*\.q_proj"}, r".*\.q_proj"), ({"target_modules": ["a"]}, ["a"])],
)
def test_targets(tmp_path: Path, values: dict[str, Any], targets: object) -> None:
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({"peft_type": "LORA", **values}))
    assert read_foreign_run([path]).config.adapter.targets == targets


@pytest.mark.parametrize(
    "value",
    [
        {"init_lora_weights": False},
        {"init_lora_weights": "odd"},
        {"task_type": "TOKEN_CLS"},
        {"loftq_config": {"loftq_bits": 2}},
        {"use_qalora": True},
    ],
)
def test_what_makes_the_adapter_differ_is_said(reader: Any, tmp_path: Path, value: dict[str, Any]) -> None:
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "m", **value}))
    assert set(value) <= reader.said(read_foreign_run([path]))["not honoured"]


@pytest.mark.parametrize(
    ("value", "section", "expected"),
    [
        ({"task_type": "SEQ_2_SEQ_LM"}, "model", {"task": "seq_2_seq_lm"}),
        ({"task_type": "SEQ_CLS"}, "objective", {"name": "classification"}),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "quantization", {"load_in_4bit": True}),
        ({"eva_config": {"rho": 1.5}}, "adapter", {"options": {"eva_config": {"rho": 1.5}}}),
    ],
)  # fmt: skip
def test_settings_that_are_fields_elsewhere(
    reader: Any, tmp_path: Path, value: dict[str, Any], section: str, expected: dict[str, Any]
) -> None:
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "m", **value}))
    run = read_foreign_run([path])
    assert getattr(run.config, section).model_dump(include=set(expected)) == expected
    assert not set(value) & reader.said(run)["not honoured"]


def test_another_method_brings_its_options(reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "adapter.json"
    saved = peft.OFTConfig(oft_block_size=16, target_modules=["q_proj"], modules_to_save=["lm_head"]).to_dict()
    path.write_text(json.dumps({**saved, "base_model_name_or_path": "m", "lora_alpha": 4, "odd": 1}, default=list))
    run = read_foreign_run([path])
    adapter = run.config.adapter
    assert (adapter.method, adapter.targets, adapter.modules_to_save) == ("oft", ["q_proj"], ["lm_head"])
    assert adapter.options["oft_block_size"] == 16
    assert set(adapter.options) <= set(saved)
    assert reader.said(run)["unknown"] == {"lora_alpha", "odd"}


def test_a_method_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({"peft_type": "XLORA", "base_model_name_or_path": "m"}))
    with pytest.raises(ConfigError, match=r"adapter\.method: xlora cannot be trained here"):
        read_foreign_run([path])


@pytest.mark.parametrize("text", ["{", "[1]", '{"peft_type": "LORA", "r": 1, "r": 2}', "[" * 100_000])
def test_refused_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "adapter.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"adapter\.json"):
        read_foreign_run([path])
