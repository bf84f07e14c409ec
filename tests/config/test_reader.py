"""Run files to configurations."""

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loratory.config import RunConfig, build_config, config_to_yaml, load_config, read_config
from loratory.config.document import dump_document, parse_document
from loratory.errors import ConfigError

MINIMAL: dict[str, Any] = {"model": {"model_name_or_path": "tiny"}, "data": {"train": "rows.json"}}


def faults_of(values: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_config({**MINIMAL, **values}, overrides)
    return caught.value.faults


def write(path: Path, value: object) -> Path:
    path.write_text(dump_document(value), encoding="utf-8")
    return path


def test_a_minimal_file_takes_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "run.yaml", MINIMAL))
    assert config.model.model_name_or_path == "tiny"
    assert config.adapter.rank == 8
    assert config == RunConfig.model_validate(MINIMAL)


def test_the_configuration_is_frozen() -> None:
    config = build_config(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.seed = 1  # type: ignore[misc]


def test_overrides_change_values_and_leave_the_input_alone() -> None:
    values = {**MINIMAL, "train": {"seed": 1}}
    config = build_config(
        values,
        [
            "train.seed=7",
            "train.learning_rate=1e-5",
            "adapter.targets=[q_proj, v_proj]",
            "adapter.rank_pattern={q_proj: 4}",
            "adapter.rank_pattern.model.layers.0.v_proj=2",
            "data.validation=val.json",
            "run.trackers=[tensorboard]",
            "quantization.load_in_4bit=true",
        ],
    )
    assert config.train.seed == 7
    assert config.train.learning_rate == 1e-5
    assert config.adapter.targets == ["q_proj", "v_proj"]
    assert config.adapter.rank_pattern == {"q_proj": 4, "model.layers.0.v_proj": 2}
    assert config.data.validation == "val.json"
    assert config.run.trackers == ["tensorboard"]
    assert config.quantization.is_active
    assert values == {**MINIMAL, "train": {"seed": 1}}


@pytest.mark.parametrize("text", ["007", "2024", "You are: a helper", "a # b", "x=y", "[draft]", "1e-4", "no"])
def test_an_override_of_a_text_field_needs_no_quotes(text: str) -> None:
    assert build_config(MINIMAL, [f"data.system={text}"]).data.system == text


def test_a_number_for_text_or_a_list_is_text() -> None:
    assert build_config(MINIMAL, ["adapter.targets=7"]).adapter.targets == "7"
    assert build_config(MINIMAL, ["adapter.targets=[a, b]"]).adapter.targets == ["a", "b"]


def test_an_override_can_unset_and_can_be_quoted() -> None:
    values = {**MINIMAL, "data": {"train": "a", "system": "b"}}
    for empty in ("", "~", "null"):
        assert build_config(values, [f"data.system={empty}"]).data.system is None
    assert build_config(values, ["data.system='null'"]).data.system == "null"


def test_the_last_override_wins() -> None:
    assert build_config(MINIMAL, ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize("override", ["seed=1", "train.seed", "=3", ".seed=3", "train.=3", "nonsense"])
def test_what_is_no_assignment_is_a_fault(override: str) -> None:
    (fault,) = faults_of({}, override)
    assert fault == f"{override}: expected section.key=value, such as train.learning_rate=2e-4"


def test_an_override_that_is_no_yaml_names_its_key() -> None:
    (fault,) = faults_of({}, "adapter.targets=[q_proj")
    assert fault.startswith("adapter.targets:1: not valid YAML")


@pytest.mark.parametrize(
    ("section", "name", "meant"),
    [
        ("train", "learning_rat", "train.learning_rate"),
        ("adapter", "lora_alpha", "adapter.alpha"),
        ("train", "num_train_epochs", "train.num_epochs"),
        ("model", "learning_rate", "train.learning_rate"),
        ("data", "max_seq_length", "data.cutoff_len"),
        ("adapter", "drop_out", "adapter.dropout"),
    ],
)
def test_an_unknown_key_suggests_the_key_that_was_meant(section: str, name: str, meant: str) -> None:
    values = {**MINIMAL.get(section, {}), name: 3}
    (fault,) = faults_of({section: values})
    assert fault == f"{section}.{name}: unknown key; got 3. Did you mean '{meant}'?"
    (same,) = faults_of({}, f"{section}.{name}=3")
    assert same == fault


@pytest.mark.parametrize(
    ("name", "meant"), [("learning_rate", "train.learning_rate"), ("trian", "train"), ("lora_r", "adapter.rank")]
)
def test_an_unknown_section_suggests_what_was_meant(name: str, meant: str) -> None:
    (fault,) = faults_of({name: 3})
    assert fault == f"{name}: unknown section; got 3. Did you mean '{meant}'?"


def test_an_unknown_key_without_a_near_name_lists_the_allowed_ones() -> None:
    (fault,) = faults_of({"objective": {"zzz": 1}})
    assert fault == "objective.zzz: unknown key; got 1. Allowed: name."


def test_a_name_that_stands_in_two_sections_names_both() -> None:
    (fault,) = faults_of({"batch_size": 3})
    assert "'train.batch_size' or 'predict.batch_size'" in fault


def test_all_faults_come_at_once_with_key_value_and_what_is_allowed() -> None:
    faults = faults_of(
        {
            "model": {},
            "adapter": {"rank": 0, "targets": 5, "rank_pattern": {"q": "x"}},
            "train": {"num_epochs": "3", "schedule": "cosin", "seed": True, "learning_rate": float("inf")},
            "quantization": {"load_in_4bit": True, "load_in_8bit": True},
            "run": {"name": "../evil"},
            "predict": 3,
        },
        "train.foo=1",
        "oops",
    )
    assert faults == [
        "train.foo: unknown key; got 1. Allowed: "
        + ", ".join(RunConfig.model_fields["train"].annotation.model_fields)
        + ".",
        "oops: expected section.key=value, such as train.learning_rate=2e-4",
        "model.model_name_or_path: required and not given; expected text: Hub name, local folder, or local .gguf file.",
        "adapter.rank: should be greater than or equal to 1; got 0",
        "adapter.targets: should be text or a list of text; got 5; put quotes around it to make it text",
        "adapter.rank_pattern.q: should be a whole number; got 'x'",
        "quantization: load_in_4bit and load_in_8bit are both true; choose one",
        "train.num_epochs: should be a number; got '3'; write it without quotes",
        "train.learning_rate: should be a finite number; got .inf",
        "train.schedule: should be one of linear, cosine, constant; got 'cosin'",
        "train.seed: should be a whole number; got true",
        "predict: expected a mapping of fields; got 3; fields: "
        + ", ".join(RunConfig.model_fields["predict"].annotation.model_fields),
        "run.name: should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'; got '../evil'",
    ]


def test_a_missing_section_says_what_it_needs() -> None:
    with pytest.raises(
        ConfigError, match=r"data: required and not given; expected a section with at least data\.train"
    ):
        build_config({"model": {"model_name_or_path": "x"}})


@pytest.mark.parametrize("text", ["", "[1]", "just text", "3"])
def test_a_file_that_is_no_mapping_says_what_is_expected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected sections: model, data, adapter"):
        load_config(path)


def test_written_yaml_reads_back_equal_and_is_complete(tmp_path: Path) -> None:
    config = build_config(MINIMAL, ["adapter.rank_pattern={a.b: 3}", "data.system=no", "train.learning_rate=1e-9"])
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path) == config
    written = parse_document(path.read_text(encoding="utf-8"), "t")
    assert isinstance(written, dict)
    assert {name: list(section) for name, section in written.items()} == {
        name: list(field.annotation.model_fields) for name, field in RunConfig.model_fields.items()
    }


@given(st.text(max_size=30), st.floats(min_value=1e-300, max_value=1e300), st.lists(st.text(max_size=10), max_size=3))
def test_any_values_survive_the_round_trip(system: str, rate: float, targets: list[str]) -> None:
    config = build_config(
        {**MINIMAL, "data": {"train": "a", "system": system}, "adapter": {"targets": targets}},
        [f"train.learning_rate={rate!r}"],
    )
    assert build_config(parse_document(config_to_yaml(config), "t")) == config


PEFT_DOCUMENT = {
    "model": {"model_name_or_path": "tiny", "use_peft": True, "peft_config": {"r": 16}},
    "logging": {"level": "info"},
}


def test_notes_on_another_tools_file_are_returned_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "config.yaml", PEFT_DOCUMENT)
    reading = read_config(path)
    assert reading.config.adapter.rank == 16
    assert f"{path}: ignored: logging.level." in reading.notes
    assert f"{path}: names no training rows; give data.train=FILE." in reading.notes
    with caplog.at_level(logging.WARNING):
        load_config(path)
    assert [record.message for record in caplog.records] == list(reading.notes)


def test_overrides_apply_to_another_tools_file(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml", PEFT_DOCUMENT)
    reading = read_config(path, ["data.train=rows.json", "adapter.rank=4"])
    assert reading.config.data.train == "rows.json"
    assert reading.config.adapter.rank == 4
    assert not any("training rows" in note for note in reading.notes)
