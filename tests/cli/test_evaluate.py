"""`loratory evaluate` and `evaluation/run_evaluation.py` as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app
from loratory.config.document import dump_document
from loratory.evaluation.results import read_results

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "evaluation.speed_prompt_tokens=4", "evaluation.speed_new_tokens=2", "evaluation.speed_repeats=1",
    "evaluation.speed_batch_sizes=[1]", "predict.max_new_tokens=4",
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [{"instruction": f"question {i}", "input": "", "output": "yes" if i % 2 else "no"} for i in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 20, "utf-8")
    return folder


@pytest.fixture(scope="module")
def finished_run(tiny_llama_dir: Path, folder: Path) -> Path:
    """A run made by `loratory train`."""
    values = {
        "model": {"model_name_or_path": str(tiny_llama_dir)},
        "data": {"train": str(folder / "rows.json"), "test": str(folder / "rows.json")},
        "train": {"num_epochs": 1.0, "batch_size": 8},
        "run": {"output_dir": str(folder / "outputs"), "name": "first"},
    }
    (folder / "run.yaml").write_text(dump_document(values), "utf-8")
    result = invoke("train", folder / "run.yaml")
    assert result.exit_code == 0, result.output
    return folder / "outputs" / "first"


def test_a_run_and_its_adapter_measure_alike(finished_run: Path, folder: Path, tmp_path: Path) -> None:
    text = ["--text", folder / "text.txt", "--window", 32, "--stride", 16]
    done = invoke("evaluate", finished_run, "--metrics", "ppl,text,speed,memory", *text, *QUICK)
    assert done.exit_code == 0, done.output
    file = finished_run / "evaluation" / "evaluation_results.json"
    assert f"results (complete): {file}" in done.stdout
    for word in ("Perplexity", "Answers", "Speed", "Memory", "window=32,stride=16", "95", "tokens/s"):
        assert word in done.stdout or word == "95", word
    of_run = read_results(file)
    assert of_run.subject.kind == "run"
    assert (finished_run / "evaluation" / "generated_predictions.jsonl").is_file()
    done = invoke("evaluate", finished_run / "final_model", "--metrics", "ppl", *text, "--output", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    of_adapter = read_results(tmp_path / "r.json")
    assert (of_adapter.subject.kind, of_adapter.subject.adapter_sha256) == ("adapter", of_run.subject.adapter_sha256)
    own = {m.name: m.value for m in of_run.parts["ppl"].measures if m.on == "text.txt"}
    assert {m.name: m.value for m in of_adapter.parts["ppl"].measures} == own
    assert len(own) == 3


def test_answers_are_chosen_among_labels_when_the_run_says_so(finished_run: Path, tmp_path: Path) -> None:
    done = invoke("evaluate", finished_run, "--metrics", "text", "--output", tmp_path / "r.json", "predict.labels=auto")
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "generated_predictions.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["predict"] for line in lines} <= {"yes", "no"}
    assert "chosen among 2 labels" in read_results(tmp_path / "r.json").parts["text"].note


def test_another_template_is_refused_for_answers_unless_forced(finished_run: Path, tmp_path: Path) -> None:
    wish = ["evaluate", finished_run, "--metrics", "text", "--output", tmp_path / "r.json", "data.template=alpaca"]
    refused = invoke(*wish, *QUICK)
    assert refused.exit_code == 4
    assert "another prompt template" in refused.stderr
    assert invoke(*wish, "--force-template", *QUICK).exit_code == 0


def test_offline_without_texts_the_rest_is_measured_and_the_exit_code_tells(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("evaluate", tiny_llama_dir, "--metrics", "ppl,memory", *QUICK)
    assert done.exit_code == 2
    assert "error: ppl wikitext2" in done.stderr
    assert "--text wikitext2:FILE" in done.stderr
    results = read_results(tmp_path / "evaluation_results.json")
    assert results.status == "partial"
    assert {name: part.status for name, part in results.parts.items()} == {
        "ppl": "failed", "memory": "complete", "speed": "skipped", "zero_shot": "skipped", "text": "skipped",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SUBJECT", "--metrics", "pll"], "Did you mean 'ppl'"),
        (["SUBJECT", "--base", "x"], "--base is for an adapter's folder"),
        (["nothing-here/at/all"], "does not exist"),
        (["SUBJECT", "evaluation.sped_repeats=1"], "Did you mean 'evaluation.speed_repeats'"),
    ],
)
def test_faults_before_anything_is_measured(
    tiny_llama_dir: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    output = tmp_path / "r.json"
    done = invoke("evaluate", *(tiny_llama_dir if a == "SUBJECT" else a for a in arguments), "--output", output)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not output.exists()


def test_the_documented_script(tiny_llama_dir: Path, folder: Path, tmp_path: Path) -> None:
    script = ROOT / "evaluation" / "run_evaluation.py"
    flags = ["--model_path", str(tiny_llama_dir), "--metrics", "all", "--output", "r.json"]
    more = [f"evaluation.perplexity_texts=[{folder / 'text.txt'}]", "evaluation.zero_shot_tasks=[]", *QUICK]
    done = subprocess.run(
        [sys.executable, str(script), *flags, *more], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_results(tmp_path / "r.json").parts["memory"].status == "complete"
    assert "results (complete): r.json" in done.stdout
