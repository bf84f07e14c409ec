"""A finished run on its way out: merge, GGUF, Modelfile, vLLM, card, hub, chat, by the commands a user types."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app
from loratory.config.document import dump_document

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def invoke(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments], input=typed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    rows = [{"instruction": f"question {i}", "input": "", "output": "yes" if i % 2 else "no"} for i in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    return folder


@pytest.fixture(scope="module")
def finished_run(tiny_llama_dir: Path, folder: Path) -> Path:
    """A run made by `loratory train`, with scored predictions."""
    values = {
        "model": {"model_name_or_path": str(tiny_llama_dir)},
        "data": {"train": str(folder / "rows.json"), "test": str(folder / "rows.json"), "system": "Answer with codes."},
        "train": {"num_epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2},
        "predict": {"max_new_tokens": 4},
        "run": {"output_dir": str(folder / "outputs"), "name": "first"},
    }
    (folder / "run.yaml").write_text(dump_document(values), "utf-8")
    result = invoke("train", folder / "run.yaml")
    assert result.exit_code == 0, result.output
    assert invoke("predict", folder / "outputs" / "first").exit_code == 0
    return folder / "outputs" / "first"


def test_gguf_of_a_run_holds_the_merged_adapter(finished_run: Path, tmp_path: Path) -> None:
    done = invoke("export", "gguf", finished_run, "--output", tmp_path / "m.gguf", "--dtype", "f32")
    assert done.exit_code == 0, done.output
    assert "same top token 100.0%" in done.stdout
    assert "the same greedy answer" in done.stdout
    assert "the adapter was merged first" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.check.json", "m.gguf"]
    report = json.loads((tmp_path / "m.check.json").read_text("utf-8"))
    assert report["measured"]["max_logit_difference"] == 0
    # The file is a base model like any other: it is opened and asked again.
    loaded = invoke("model", "load", tmp_path / "m.gguf")
    assert loaded.exit_code == 0, loaded.output
    again = invoke("export", "gguf", finished_run, "--output", tmp_path / "m.gguf")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_gguf_of_a_model_folder(tiny_llama_dir: Path, tmp_path: Path) -> None:
    done = invoke("export", "gguf", tiny_llama_dir, "--output", tmp_path / "m.gguf", "--dtype", "q8_0")
    assert done.exit_code == 0, done.output
    bad = invoke("export", "gguf", tiny_llama_dir, "--output", tmp_path / "n.gguf", "--dtype", "q4_k")
    assert bad.exit_code == 2
    assert "f32, f16, bf16, q8_0" in bad.stderr


def test_another_template_than_that_of_training_is_refused(finished_run: Path, tmp_path: Path) -> None:
    arguments = ("export", "gguf", finished_run, "--output", tmp_path / "m.gguf", "--template", "alpaca")
    refused = invoke(*arguments)
    assert refused.exit_code == 4
    assert "--force-template" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_ollama(finished_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "codes"
    done = invoke("export", "ollama", finished_run, "--output", output)
    assert done.exit_code == 0, done.output
    assert f"next: ollama create codes -f {output / 'Modelfile'}" in done.stdout
    text = (output / "Modelfile").read_text("utf-8")
    assert 'SYSTEM """Answer with codes."""' in text
    assert "PARAMETER num_ctx 512\nPARAMETER temperature 0\n" in text
    assert (output / "model.gguf").read_bytes()[:4] == b"GGUF"


def test_vllm(finished_run: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    done = invoke("export", "vllm", finished_run, "--output", tmp_path / "v")
    assert done.exit_code == 0, done.output
    assert f"vllm serve {tiny_llama_dir} --host 127.0.0.1 --enable-lora --lora-modules first=" in done.stdout
    assert (tmp_path / "v" / "adapter_model.safetensors").is_file()


def test_card_with_scores_and_certificate(finished_run: Path, tmp_path: Path) -> None:
    assert invoke("adapter", "merge", finished_run, "--output", tmp_path / "merged").exit_code == 0
    done = invoke(
        "export", "card", finished_run, "--merged", tmp_path / "merged", "--output", tmp_path / "R.md",
        "--license", "apache-2.0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    text = (tmp_path / "R.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "transformers"
    assert front["license"] == "apache-2.0"
    assert "| rows | exact_match |" in text
    assert "## Merge certificate" in text
    assert "| train | rows.json | " in text
    # Where the author's files lie is nobody's business.
    assert str(finished_run.parents[1]) not in text
    wrong = invoke("export", "card", finished_run, "--merged", finished_run, "--output", tmp_path / "S.md")
    assert wrong.exit_code == 2
    assert "no merge certificate" in wrong.stderr


def test_card_beside_the_adapter_leaves_it_loadable(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert invoke("export", "card", run).exit_code == 0
    front = yaml.safe_load((run / "final_model" / "README.md").read_text("utf-8").split("---")[1])
    assert front["library_name"] == "peft"
    assert "lora" in front["tags"]
    assert invoke("adapter", "show", run).exit_code == 0


def test_hub_dry_run_lists_and_offline_is_an_error(finished_run: Path) -> None:
    listed = invoke("export", "hub", finished_run, "--repo-id", "me/codes", "--dry-run")
    assert listed.exit_code == 0, listed.output
    assert "adapter_model.safetensors" in listed.stdout
    assert "README.md (the model card)" in listed.stdout
    assert "nothing was sent" in listed.stdout
    refused = invoke("export", "hub", finished_run, "--repo-id", "me/codes")
    assert refused.exit_code == 2
    assert "HF_HUB_OFFLINE" in refused.stderr


def test_chat_commands(finished_run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    typed = "\n".join(
        [
            "question 1", "/both question 2", "/base", "question 3", "/system Be brief.", "/history", "/sav x",
            f"/save {saved}", "/reset", "/both", "question 4", "/help", "/exit", "never asked",
        ]
    )  # fmt: skip
    done = invoke("chat", finished_run, "--max-new-tokens", 3, typed=typed + "\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("base: ") == 2
    assert done.stdout.count("adapter: ") == 2
    assert "system: Be brief.\nuser: question 1\n" in done.stdout
    assert "/sav: no such command. Did you mean '/save'?" in done.stderr
    assert "never asked" not in done.stdout
    (row,) = json.loads(saved.read_text("utf-8"))
    assert [message["role"] for message in row["messages"]] == ["system"] + ["user", "assistant"] * 3


def test_compare_chat_of_one_run_and_of_two(finished_run: Path) -> None:
    one = invoke("compare-chat", finished_run, "--question", "question 1", "--max-new-tokens", 3)
    assert one.exit_code == 0, one.output
    assert one.stdout.startswith("question: question 1\nbase: ")
    assert "\nadapter: " in one.stdout
    # Questions of the command line know nothing of each other.
    again = [word for _ in range(2) for word in ("--question", "question 1")]
    assert invoke("compare-chat", finished_run, *again, "--max-new-tokens", 3).stdout == 2 * one.stdout
    twice = invoke("compare-chat", finished_run, finished_run)
    assert twice.exit_code == 2
    two = invoke(
        "compare-chat", finished_run, finished_run.parent / "." / "first" / ".." / "first", "--max-new-tokens", 3,
        typed="question 1\n/reset\nquestion 2\n/exit\n",
    )  # fmt: skip
    assert two.exit_code == 0, two.output
    assert two.stdout.count(f"{finished_run}: ") == 2


def test_the_commands_of_the_page_run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, tmp_path / "outputs" / "minimal")
    merged = invoke("adapter", "merge", "outputs/minimal", "--output", "models/merged_models/minimal")
    assert merged.exit_code == 0, merged.output
    page = (ROOT / "docs" / "export.md").read_text("utf-8")
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    assert len(commands) == 8
    for command in commands:
        done = invoke(*shlex.split(command)[1:], typed="/both cancel my plan\n/exit\n")
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    assert (tmp_path / "models" / "minimal_ollama" / "Modelfile").is_file()
