"""Other tools' files as run configurations: reading, joining, and the file that is written."""

import json
from pathlib import Path

import pytest

from loratory.config import load_config
from loratory.config.document import dump_document
from loratory.config.foreign_file import read_adapter_json, read_foreign_flags, read_foreign_run
from loratory.errors import ConfigError, UnsafeError

LLAMA_FACTORY = {"model_name_or_path": "m", "dataset": "d", "template": "qwen", "stage": "sft", "lora_rank": 4}


def write_yaml(path: Path, values: dict[str, object]) -> Path:
    path.write_text(dump_document(values), encoding="utf-8")
    return path


def test_what_is_written_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    source = write_yaml(
        tmp_path / "lf.yaml", {**LLAMA_FACTORY, "neat_packing": True, "lora_rnak": 3, "plot_loss": True}
    )
    run = read_foreign_run([source])
    target = tmp_path / "run.yaml"
    target.write_text(run.to_yaml(), encoding="utf-8")
    assert load_config(target) == run.config
    head = [line for line in target.read_text().splitlines() if line.startswith("#")]
    assert head[0] == f"# Read from {source} as settings of llamafactory."
    assert head[1] == "# Not honoured: the run will differ."
    assert head[2].startswith("#   neat_packing=true: rows are never packed")
    assert "#   lora_rnak=3: LLaMA-Factory has no such setting. Did you mean 'lora_rank'?" in head
    assert any("learning_rate=5.0e-05" in line for line in head)


def test_a_value_cannot_leave_its_comment(tmp_path: Path) -> None:
    source = write_yaml(tmp_path / "lf.yaml", {**LLAMA_FACTORY, "odd": "x\ntrain:\n  seed: 7", "o\u2028dd": "y\u2028z"})
    run = read_foreign_run([source])
    target = tmp_path / "run.yaml"
    target.write_text(run.to_yaml(), encoding="utf-8")
    assert load_config(target) == run.config
    assert run.config.train.seed == 42


def test_later_settings_go_before_earlier_ones(tmp_path: Path) -> None:
    source = write_yaml(tmp_path / "lf.yaml", {**LLAMA_FACTORY, "learning_rate": 1e-3})
    run = read_foreign_run([], command=f"llamafactory-cli train {source} learning_rate=3e-5 lora_rank=16")
    assert (run.config.train.learning_rate, run.config.adapter.rank) == (3e-5, 16)
    assert run.config.data.template == "qwen"
    assert run.sources == ("the command line of llamafactory-cli", str(source))


def test_a_script_names_its_file_beside_it(tmp_path: Path) -> None:
    write_yaml(tmp_path / "lf.yaml", LLAMA_FACTORY)
    script = tmp_path / "run.sh"
    script.write_text("FORCE_TORCHRUN=1 llamafactory-cli train lf.yaml\n")
    assert read_foreign_run([script]).config.adapter.rank == 4


def test_our_own_fields_can_be_set(tmp_path: Path) -> None:
    source = write_yaml(tmp_path / "lf.yaml", LLAMA_FACTORY)
    run = read_foreign_run([source], overrides=["train.seed=7", "run.name=mine"])
    assert (run.config.train.seed, run.config.run.name) == (7, "mine")


def test_what_is_missing_is_left_empty_and_said(tmp_path: Path) -> None:
    path = tmp_path / "adapter.json"
    path.write_text('{"peft_type": "LORA"}')
    run = read_foreign_run([path])
    assert (run.config.model.model_name_or_path, run.config.data.train) == ("", "")
    assert {finding.key for finding in run.findings} == {"model.model_name_or_path", "data.train"}


@pytest.mark.parametrize(
    ("name", "text", "error", "match"),
    [
        ("a.yaml", "- 1\n", ConfigError, "expected a mapping"),
        ("a.yaml", "a: !!python/object/apply:os.system [x]\n", UnsafeError, "Python objects"),
        ("a.yaml", "{}\n", ConfigError, "holds no settings"),
        ("a.json", "{'a': 1}", ConfigError, "not valid JSON"),
        ("a.json", '{"a": ' * 4000, ConfigError, "not valid JSON"),
        ("a.json", json.dumps({"x": "y" * 300_000}), ConfigError, "too large"),
        ("a.sh", "rm -r x\n", ConfigError, "no commands"),
        ("a.yaml", "model_name_or_path: m\n", ConfigError, "could be of"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, text: str, error: type[Exception], match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=match):
        read_foreign_run([tmp_path / name])


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_foreign_run([tmp_path / "gone.json"])
    (tmp_path / "a.sh").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_foreign_run([tmp_path / "a.sh"])


def test_flags(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.json"
    adapter.write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_rslora": true}')
    run = read_foreign_flags(
        ["--model_name_or_path", "m", "--adapter_config", str(adapter), "--no_packing"],
        tool="peft-sft",
        source="loratory sft",
        processes=2,
    )
    assert (run.config.adapter.rank, run.config.adapter.alpha, run.config.adapter.use_rslora) == (2, 6.0, True)
    assert run.config.train.batch_size == 16
    assert not [finding for finding in run.findings if finding.key == "packing"]
    with pytest.raises(ConfigError, match="'stray' belongs to no flag"):
        read_foreign_flags(["stray"], tool="peft-sft", source="loratory sft", processes=1)
    assert read_adapter_json(adapter)["r"] == 2
    adapter.write_text("{}")
    with pytest.raises(ConfigError, match="no peft_type"):
        read_adapter_json(adapter)
