"""The demo from data to merged model: on a tiny random model, and in reduced form on the real one."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from loratory.config import read_config
from loratory.data.records import Origin, Record, Turn
from loratory.demo.base_model import ensure_base_model
from loratory.demo.data_check import check_data
from loratory.demo.demo import BASE_NAME, run_demo
from loratory.demo.result import DemoResult
from loratory.demo.run_file import DEFAULT_WORKDIR, run_file_text
from loratory.demo.stages import Stages
from loratory.errors import ConfigError, DataError
from loratory.evaluation.text import TEXT_METRICS

EXAMPLE = Path(__file__).parents[2] / "examples" / "telecom.yaml"
TINY = (
    "data.cutoff_len=512",
    "train.max_steps=3",
    "train.batch_size=4",
    "train.num_threads=1",
    "predict.max_new_tokens=3",
)


def quiet_console() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=140), text


def row(prompt: str, answer: str, line: int = 1) -> Record:
    return Record(turns=(Turn("user", prompt), Turn("assistant", answer)), origin=Origin("f.json", line))


@pytest.fixture(scope="module")
def tiny_demo(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    console, text = quiet_console()
    workdir = tmp_path_factory.mktemp("demo")
    return run_demo(workdir, console=console, base_model=tiny_llama_dir, overrides=TINY), text.getvalue()


def test_demo_leaves_what_it_says(tiny_demo: tuple[DemoResult, str]) -> None:
    result, text = tiny_demo
    assert set(result.base) == set(result.adapter) == set(TEXT_METRICS)
    assert result.adapter["exact_match"].n == 200
    assert (result.run_dir / "final_model" / "adapter_config.json").is_file()
    for name in ("test", "test-base"):
        folder = result.run_dir / "predictions" / name
        assert len((folder / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 200
        assert json.loads((folder / "test_set.json").read_text(encoding="utf-8"))["num_rows"] == 200
        scores = json.loads((folder / "text_metrics.json").read_text(encoding="utf-8"))
        assert scores["exact_match"]["n"] == 200
    assert (result.merged / "merge_certificate.json").is_file()
    figures = json.loads((result.run_dir.parent / "demo.json").read_text(encoding="utf-8"))
    assert figures["peak_memory_bytes"] > 10**8
    for shown in ("exact_match_long", "bleu-4", "rouge-l", "loratory chat", "Peak memory", "200 test rows"):
        assert shown in text


def test_merged_model_is_a_plain_folder(tiny_demo: tuple[DemoResult, str]) -> None:
    result, _ = tiny_demo
    model = AutoModelForCausalLM.from_pretrained(result.merged)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_second_run_keeps_the_finished_training(tiny_demo: tuple[DemoResult, str], tiny_llama_dir: Path) -> None:
    first, _ = tiny_demo
    weights = first.run_dir / "final_model" / "adapter_model.safetensors"
    written = weights.stat().st_mtime_ns
    console, text = quiet_console()
    second = run_demo(first.run_dir.parent, console=console, base_model=tiny_llama_dir, overrides=TINY)
    assert weights.stat().st_mtime_ns == written
    assert "finished" in text.getvalue()
    assert {name: score.value for name, score in second.adapter.items()} == {
        name: score.value for name, score in first.adapter.items()
    }


def test_changed_settings_train_anew(tiny_demo: tuple[DemoResult, str], tiny_llama_dir: Path) -> None:
    first, _ = tiny_demo
    before = (first.run_dir / "final_model" / "adapter_model.safetensors").read_bytes()
    console, _ = quiet_console()
    changed = (*TINY, "train.learning_rate=0.02")
    second = run_demo(first.run_dir.parent, console=console, base_model=tiny_llama_dir, overrides=changed)
    assert (second.run_dir / "final_model" / "adapter_model.safetensors").read_bytes() != before


def test_example_is_the_demos_run_file() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == run_file_text()


def test_run_file_leads_into_the_given_folder(tmp_path: Path) -> None:
    file = tmp_path / "telecom.yaml"
    file.write_text(run_file_text(Path("some/where")), encoding="utf-8")
    config = read_config(file).config
    assert config.data.train == "some/where/data/train.json"
    assert config.run.output_dir == "some/where"
    assert str(DEFAULT_WORKDIR) not in file.read_text(encoding="utf-8")


def test_run_file_refuses_a_folder_that_yaml_would_misread() -> None:
    with pytest.raises(ConfigError, match="workdir"):
        run_file_text(Path("a: b"))


def test_check_counts_answers_and_finds_leaks() -> None:
    train = [row("a", "x"), row("b", "x", 2), row("c", "y", 3)]
    check = check_data(train, [row("d", "x"), row("e", "z")])
    assert (check.num_train, check.num_test, check.num_unseen) == (3, 2, 1)
    assert check.answers == {"x": 2, "y": 1}
    with pytest.raises(
        DataError, match=r"1 test prompts are also training prompts \(f\.json:7 is in f\.json:2 \(exact\)\)"
    ):
        check_data(train, [row("  B ", "x", 7)])


def test_stages_are_numbered_and_timed() -> None:
    console, text = quiet_console()
    stages = Stages(console, total=2)
    with stages.stage("First"):
        pass
    with pytest.raises(RuntimeError), stages.stage("Second"):
        raise RuntimeError
    assert list(stages.seconds) == ["First", "Second"]
    assert "2/2  Second" in text.getvalue()


@pytest.mark.real_weights
def test_reduced_demo_on_the_real_model(tmp_path: Path) -> None:
    console, text = quiet_console()
    few = f"data.test={tmp_path / 'data' / 'test_100.json'}"
    reduced = ("train.max_steps=4", "data.max_samples=64", "predict.max_new_tokens=6", few)
    result = run_demo(tmp_path, console=console, overrides=reduced)
    assert BASE_NAME in text.getvalue()
    assert result.base["exact_match"].value <= 1.0
    assert result.base["exact_match"].n == result.adapter["exact_match"].n == 100
    losses = [
        line["loss"]
        for line in map(json.loads, (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        if "loss" in line
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert result.certificate.measured.top1_agreement > 0.99
    assert ensure_base_model().is_dir()
