"""Every file of `config/` becomes an adapter section whole, and is read so by the command that trains."""

import json
from pathlib import Path

import pytest

from loratory.config.foreign_file import read_foreign_run
from loratory.config.method_catalogue import options_of

FILES = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_ready_file_is_read_whole(file: Path) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    run = read_foreign_run([file])
    section = run.config.adapter
    assert section.method == values["peft_type"].lower()
    lost = {finding.key for finding in run.findings if finding.kind != "ignored"}
    assert lost == {"model.model_name_or_path", "data.train"}
    assert section.options == {key: value for key, value in values.items() if key in options_of(section.method)} or (
        section.init == "loftq" and run.config.quantization.load_in_4bit
    )
    if section.method == "lora":
        assert (section.rank, section.alpha, section.dropout) == (
            values["r"], values["lora_alpha"], values.get("lora_dropout", 0.0)
        )  # fmt: skip
        assert (section.use_dora, section.use_rslora) == (
            values.get("use_dora", False), values.get("use_rslora", False)
        )  # fmt: skip
        init = values.get("init_lora_weights", True)
        assert section.init == ("default" if init is True else init)
    assert values.get("target_modules") is None or section.targets == values["target_modules"]
