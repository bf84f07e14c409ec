"""The command line: fast answers, exit codes, and the whole way from a run file to a merged model."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from loratory import __version__
from loratory.cli import failures_as_exit_codes
from loratory.cli.app import make_app
from loratory.config import load_config
from loratory.config.document import dump_document
from loratory.errors import InterruptedRunError, NumericsError, UnsafeError

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "peft", "numpy", "pandas", "rich.markdown")
NEEDLESS = {"torch._inductor.compile_fx", "datasets", "gguf", "gradio", "lm_eval", "optuna", "pandas", "sklearn", "trl"}
# Stops where peft is first imported, which is most of what such a command waits for, and says how.
AT_PEFT = """
import os, sys
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "peft":
            print("COMPILER OFF", os.environ.get("TORCHDYNAMO_DISABLE"), flush=True)
            os._exit(7)
sys.meta_path.insert(0, Stop())
sys.argv = ["loratory", *sys.argv[1:]]
from loratory.cli import main
main()
"""


def invoke(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments], input=text)


def run_file(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(dump_document(values), encoding="utf-8")
    return path


BAD = {"model": {"model_name": "x"}, "data": {"train": "a.json"}, "train": {"learning_rat": 1}}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["--help"], 0), (["train", "--help"], 0), (["train", "bad.yaml"], 2), (["nonsense"], 2)],
)
def test_light_commands_load_no_heavy_library(arguments: list[str], code: int, tmp_path: Path) -> None:
    """How long they take is measured by `python -m benchmarks.startup`; here only what makes them slow is refused."""
    run_file(tmp_path, BAD).rename(tmp_path / "bad.yaml")
    script = (
        "import sys, atexit\n"
        f"sys.argv = ['loratory', *{arguments!r}]\n"
        f"atexit.register(lambda: print('LOADED', [m for m in {HEAVY!r} if m in sys.modules]))\n"
        "from loratory.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loratory", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"loratory {__version__}\n"


def test_config_faults_come_in_one_message_on_stderr(tmp_path: Path) -> None:
    result = invoke("train", run_file(tmp_path, BAD))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: model.model_name_or_path: required and not given; expected text: "
        "Hub name, local folder, or local .gguf file.",
        "model.model_name: unknown key; got 'x'. Did you mean 'model.model_name_or_path'?",
        "train.learning_rat: unknown key; got 1. Did you mean 'train.learning_rate'?",
    ]


def test_config_show_prints_what_can_be_read_again(tmp_path: Path) -> None:
    values = {"model": {"model_name_or_path": "m"}, "data": {"train": "a.json"}}
    path = run_file(tmp_path, values)
    result = invoke("config", "show", path, "train.seed=7")
    assert result.exit_code == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(result.stdout, encoding="utf-8")
    assert load_config(shown) == load_config(path, ["train.seed=7"])


def test_config_schema_prints_json() -> None:
    assert json.loads(invoke("config", "schema").stdout)["properties"]["adapter"]


def test_training_without_rows_is_refused(tmp_path: Path) -> None:
    path = run_file(tmp_path, {"model": {"model_name_or_path": "m", "use_peft": True}})
    result = invoke("train", path)
    assert result.exit_code == 2
    assert "error: data.train: names no training rows; give data.train=FILE" in result.stderr
    assert "note: " in result.stderr


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (UnsafeError("refused"), 3, "error: refused"),
        (NumericsError("loss is nan"), 6, "error: loss is nan"),
        (InterruptedRunError("saved", 15), 143, "error: saved"),
        (KeyboardInterrupt(), 130, "stopped: interrupted"),
        (MemoryError(), 5, "error: out of memory: no memory left\nUse a smaller train.micro_batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), 5, "error: out of memory: CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5, "error: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 5, "error: the disk is full at /x/y."),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 5, "error: out of memory"),
    ],
)
def test_expected_failures_are_a_message_and_a_code(
    failure: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, failures_as_exit_codes():
        raise failure
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize(
    "bug", [RuntimeError("shape mismatch"), OSError(errno.EIO, "I/O error"), ValueError("no"), KeyError("k")]
)
def test_bugs_keep_their_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught, failures_as_exit_codes():
        raise bug
    assert caught.value is bug


@pytest.mark.parametrize(
    "arguments",
    [["predict", "RUN"], ["chat", "RUN"], ["adapter", "merge", "RUN", "--output", "out"], ["adapter", "show", "RUN"]],
)
def test_what_is_no_run_is_one_message(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (tmp_path / "absent", tmp_path):
        result = invoke(*(run if each == "RUN" else each for each in arguments))
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert str(run) in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(
        json.dumps([{"instruction": f"question {i}", "input": "", "output": f"answer_{i * 7 % 10}"} for i in range(8)]),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def finished_run(tiny_llama_dir: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by `loratory train`."""
    folder = tmp_path_factory.mktemp("cli")
    path = run_file(
        folder,
        {
            "model": {"model_name_or_path": str(tiny_llama_dir)},
            "data": {"train": str(rows), "test": str(rows)},
            "train": {"num_epochs": 2.0, "batch_size": 8, "learning_rate": 1e-3},
            "predict": {"max_new_tokens": 6},
        },
    )
    result = invoke("train", path, f"run.output_dir={folder / 'outputs'}", "run.name=first")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"run directory: {folder / 'outputs' / 'first'}\n"
    return folder / "outputs" / "first"


def test_train_leaves_the_documented_layout(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert {
        "config.yaml",
        "config_used.yaml",
        "provenance.json",
        "metrics.jsonl",
        "final_model",
        "checkpoint-2",
    } <= names
    assert load_config(finished_run / "config_used.yaml").run.name == "first"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CONFIG"],
        ["plan", "CONFIG"],
        ["predict", "RUN"],
        ["evaluate", "RUN"],
        ["chat", "RUN"],
        ["serve", "RUN"],
        ["adapter", "merge", "RUN", "--output", "out"],
    ],
)
def test_commands_on_a_model_keep_the_compiler_out(arguments: list[str], finished_run: Path, tmp_path: Path) -> None:
    named = {"RUN": str(finished_run), "CONFIG": str(finished_run / "config.yaml")}
    words = [named.get(each, each) for each in arguments]
    done = subprocess.run(
        [sys.executable, "-c", AT_PEFT, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (7, "COMPILER OFF 1\n"), done.stderr


def test_a_finished_run_is_not_trained_over(finished_run: Path) -> None:
    result = invoke("train", finished_run / "config.yaml")
    assert result.exit_code == 2
    assert "a finished run is there" in result.stderr


def test_predict_writes_answers_and_scores(finished_run: Path, rows: Path, tmp_path: Path) -> None:
    result = invoke("predict", finished_run)
    assert result.exit_code == 0, result.output
    folder = finished_run / "predictions" / "rows"
    answers = [json.loads(line) for line in (folder / "generated_predictions.jsonl").read_text("utf-8").splitlines()]
    assert [sorted(answer) for answer in answers] == [["label", "predict", "prompt"]] * 8
    assert [answer["label"] for answer in answers] == [row["output"] for row in json.loads(rows.read_text("utf-8"))]
    scores = json.loads((folder / "text_metrics.json").read_text("utf-8"))
    assert scores["exact_match"]["n"] == 8
    assert "exact_match" in result.stdout
    base = invoke("predict", finished_run, "--base", "--limit", 2, "--output", tmp_path / "base")
    assert base.exit_code == 0, base.output
    assert len((tmp_path / "base" / "generated_predictions.jsonl").read_text("utf-8").splitlines()) == 2


def test_predict_refuses_another_template_unless_forced(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    contract = json.loads((run / "template.json").read_text("utf-8"))
    (run / "template.json").write_text(json.dumps(contract | {"probe_sha256": "0" * 64}), encoding="utf-8")
    refused = invoke("predict", run, "--limit", 1, "--output", tmp_path / "out")
    assert refused.exit_code == 4
    assert "--force-template" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert invoke("predict", run, "--limit", 1, "--output", tmp_path / "out", "--force-template").exit_code == 0


def test_predict_without_answers_writes_no_scores(finished_run: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"instruction": "question 1", "input": ""}\n', encoding="utf-8")
    result = invoke("predict", finished_run, "--data", questions, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "nothing was scored" in result.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["generated_predictions.jsonl", "test_set.json"]


def test_predict_of_a_missing_file_leaves_nothing(finished_run: Path, tmp_path: Path) -> None:
    result = invoke("predict", finished_run, "--data", tmp_path / "absent.json", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "absent.json" in result.stderr
    assert not (tmp_path / "out").exists()


def test_chat_answers_each_line_until_exit(finished_run: Path) -> None:
    result = invoke(
        "chat", finished_run, "--max-new-tokens", 4, text="question 1\n\n/reset\n/base\nquestion 1\n/exit\nx\n"
    )
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split("\n")) >= 3


def test_adapter_show_and_merge(finished_run: Path, tmp_path: Path) -> None:
    shown = invoke("adapter", "show", finished_run)
    assert shown.exit_code == 0, shown.output
    assert "rank: 8" in shown.stdout
    merged = invoke("adapter", "merge", finished_run, "--output", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert "certificate: over" in merged.stdout
    assert (tmp_path / "merged" / "merge_certificate.json").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    again = invoke("adapter", "merge", finished_run, "--output", tmp_path / "merged")
    assert again.exit_code == 2
    wrong = invoke("adapter", "merge", finished_run, "--output", tmp_path / "other", "--dtype", "int3")
    assert wrong.exit_code == 2
    assert "allowed: auto, float32, float16, bfloat16" in wrong.stderr


def test_an_unfinished_run_says_how_to_finish_it(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "unfinished"
    run.mkdir()
    (run / "provenance.json").write_bytes((finished_run / "provenance.json").read_bytes())
    result = invoke("predict", run)
    assert result.exit_code == 2
    assert "finish it with: loratory train RUN.yaml --resume" in result.stderr


def test_main_py_trains_under_the_experiments_name(tiny_llama_dir: Path, rows: Path, tmp_path: Path) -> None:
    path = run_file(
        tmp_path,
        {
            "model": {
                "model_name_or_path": str(tiny_llama_dir),
                "use_peft": True,
                "peft_config": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"},
            },
            "data": {"train_file": str(rows)},
            "training": {"max_steps": 2, "save_strategy": "steps", "save_steps": 1},
        },
    )
    program = [sys.executable, "-X", "importtime", ROOT / "main.py"]
    command = [*program, "--config", path, "--mode", "train", "--algorithm", "sft"]
    done = subprocess.run(
        [*command, "--experiment_name", "exp_1"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"peft", "transformers.modeling_utils"} <= loaded
    assert not loaded & NEEDLESS
    run = tmp_path / "outputs" / "exp_1"
    assert {"checkpoint-1", "checkpoint-2", "final_model", "config_used.yaml"} <= {each.name for each in run.iterdir()}
    assert json.loads((run / "final_model" / "adapter_config.json").read_text("utf-8"))["r"] == 4
    unknown = subprocess.run(
        [*command[:-1], "bogus", "--experiment_name", "exp_2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert unknown.returncode == 2
    assert "objective.name: should be one of sft, dpo, " in unknown.stderr
