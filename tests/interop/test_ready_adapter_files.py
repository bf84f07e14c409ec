"""Every file of `config/` becomes an adapter section: its method, and its options under PEFT's names."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from loratory.config import AdapterConfig
from loratory.config.method_catalogue import options_of
from loratory.interop.draft import read_settings
from loratory.interop.peft_adapter import PEFT_ADAPTER

FILES = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.json"))
KEYS = [f"adapter.{name}" for name in AdapterConfig.model_fields]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_ready_file_is_read_whole(file: Path) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    fields: dict[str, tuple[str, ...]] = defaultdict(tuple, dict.fromkeys(KEYS, ()))
    reading = read_settings(PEFT_ADAPTER, values, fields=fields)
    section = AdapterConfig.model_validate(reading.values["adapter"])
    assert section.method == values["peft_type"].lower()
    assert [finding.key for finding in reading.findings if finding.kind == "unknown"] == []
    if section.method != "lora":
        assert section.options == {key: value for key, value in values.items() if key in options_of(section.method)}
