"""Combinations refused from the shipped capability file."""

from typing import Any

import pytest

from loratory.config.method_capabilities import capabilities, family_fault, nearest_method, quantised_fault, works
from loratory.config.method_catalogue import method_names
from loratory.config.reader import build_config
from loratory.errors import ConfigError

RUN: dict[str, Any] = {"model": {"model_name_or_path": "m"}, "data": {"train": "a.json"}}


def test_every_method_was_probed() -> None:
    assert set(capabilities()) == set(method_names()) - {"full"}
    assert [name for name, facts in capabilities().items() if "fault" in facts] == []


@pytest.mark.parametrize(
    ("method", "bits", "near"),
    [
        ("full", "4", "lora"),
        ("full", "8", "lora"),
        ("hra", "4", "oft"),
        ("psoft", "8", "oft"),
        ("loha", "4", "hira"),
        ("hra", "8", "oft"),
    ],
)
def test_quantised_bases_refuse_what_cannot_train_on_them(method: str, bits: str, near: str) -> None:
    with pytest.raises(ConfigError) as fault:
        build_config({**RUN, "adapter": {"method": method}, "quantization": {f"load_in_{bits}bit": True}})
    name = "full fine-tuning" if method == "full" else method
    assert list(fault.value.faults) == [
        f"adapter.method: {name} cannot be trained on a base in {bits} bits; the nearest that can is {near}, or "
        "switch quantization off"
    ]


@pytest.mark.parametrize("method", ["lora", "oft", "vera", "ia3"])
def test_quantised_bases_take_the_others(method: str) -> None:
    config = build_config({**RUN, "adapter": {"method": method}, "quantization": {"load_in_4bit": True}})
    assert config.adapter.method == method


def test_lora_can_everything() -> None:
    for fact, value in capabilities()["lora"].items():
        assert value is not False, fact


def test_the_nearest_method_can_what_was_asked() -> None:
    for method in method_names():
        for fact in ("nf4", "int8", "gpt2", "t5", "bert_classes", "llama_classes"):
            near = nearest_method(method, fact)
            assert works(near, fact), (method, fact)
            assert near != method or method == "lora"


def test_faults_in_words() -> None:
    assert quantised_fault("hra", load_in_4bit=False, load_in_8bit=False) is None
    assert family_fault("lora", "t5", kind="T5") is None
    assert (
        family_fault("cpt", "t5", kind="T5")
        == "adapter.method: cpt cannot be trained on T5; the nearest that can is prompt_tuning"
    )
