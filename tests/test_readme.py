"""What the pages say is done: the README's commands run, its files validate, its links lead somewhere."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import loratory
from loratory.cli.app import make_app
from loratory.config import build_config
from loratory.config.document import parse_document
from loratory.demo.telecom import generate_telecom

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# The smallest amount of the same work, so that the commands run in seconds on a tiny model.
SMALL = {
    "train": ["data.max_samples=8", "data.cutoff_len=512", "train.max_steps=1"],
    "sweep": [
        "sweep.num_trials=1",
        "sweep.control=0",
        "data.max_samples=8",
        "data.cutoff_len=512",
        "train.max_steps=1",
        "predict.max_new_tokens=2",
    ],
    "plan": ["--no-calibrate"],
    "predict": ["--limit", "2", "--max-new-tokens", "4"],
    "compare-chat": ["--max-new-tokens", "4"],
    "serve": ["--port", "0"],
    "evaluate": [
        "data.max_samples=8",
        "predict.max_new_tokens=4",
        "evaluation.limit=4",
        "evaluation.speed_prompt_tokens=4",
        "evaluation.speed_new_tokens=2",
        "evaluation.speed_repeats=1",
        "evaluation.speed_batch_sizes=[1]",
    ],
}
# Scripts that take a verb's settings behind their own flags.
VERB_OF = {"main.py": "train", "evaluation/run_evaluation.py": "evaluate"}
TYPED = {"chat": "cancel my plan\n/exit\n"}
# Whole targets: run by hand and by continuous integration; here they only have to exist.
HEAVY = {"loratory demo"}


def commands(page: Path, language: str = "sh") -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.fixture
def after_the_demo(tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which the demo has run, with a tiny model in the place of its base."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(tiny_llama_dir, tmp_path / "outputs" / "demo" / "base_model")
    generate_telecom(tmp_path / "outputs" / "demo" / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, folder: Path) -> None:
    words = shlex.split(command)
    match words:
        case ["make", *targets]:
            assert set(targets) <= make_targets(), command
        case ["loratory", "serve", *arguments]:
            serve_once([*arguments, *SMALL["serve"]], folder)
        case ["loratory", *arguments]:
            small = [*arguments, *SMALL.get(arguments[0], [])]
            result = CliRunner().invoke(make_app(), small, input=TYPED.get(arguments[0]))
            assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
        case ["python", script, *arguments]:
            done = subprocess.run(
                [sys.executable, str(ROOT / script), *arguments, *SMALL.get(VERB_OF.get(script, ""), [])],
                capture_output=True, text=True, cwd=folder, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        case _:
            pytest.fail(f"README names a command that this test does not know: {command}")


def serve_once(arguments: list[str], folder: Path) -> None:
    """Start the server, ask every model by OpenAI's own client, and end it as a service manager does."""
    openai = pytest.importorskip("openai")
    command = [str(Path(sys.executable).parent / "loratory"), "serve", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        told = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"at (http://\S+)\nkey: (\S+)", told)
        assert found, f"{shlex.join(command)}\n{told}{process.communicate(timeout=30)[1] if not told else ''}"
        with openai.OpenAI(base_url=found[1], api_key=found[2], max_retries=0) as client:
            names = [model.id for model in client.models.list()]
            assert len(names) >= 2, "an adapter and its base"
            for name in names:
                question = {"role": "user", "content": "cancel my plan"}
                reply = client.chat.completions.create(model=name, messages=[question], max_tokens=4)
                assert reply.usage.completion_tokens >= 1
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped: all requests were finished\n"), errors
    finally:
        process.kill()
        process.wait()


def test_the_commands_of_the_readme_run_one_after_the_other(after_the_demo: Path) -> None:
    found = commands(ROOT / "README.md")
    assert found[:2] == ["make demo", "make test"]
    for command in found:
        if command not in HEAVY:
            run(command, after_the_demo)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_all_pages_have_known_verbs_and_options(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command)
        if words[0] == "make":
            assert set(words[1:]) <= make_targets(), command
        if words[0] != "loratory":
            continue
        verb = [word for word in words[1:3] if re.fullmatch(r"[a-z]+(-[a-z]+)?", word)]
        if len(verb) == 2 and verb[0] not in {"config", "adapter", "data", "export", "model"}:
            verb = verb[:1]
        shown = CliRunner().invoke(make_app(), [*verb, "--help"])
        assert shown.exit_code == 0, f"{page.name}: {command}\n{shown.output}"
        for option in re.findall(r"--[a-z-]+", command):
            assert option in shown.output, f"{page.name}: {command}: no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_run_files_on_all_pages_validate(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        values = parse_document(block, page.name)
        assert isinstance(values, dict)
        needed = {"model": {"model_name_or_path": "m"}, "data": {"train": "f"}}
        build_config({name: {**needed.get(name, {}), **values.get(name, {})} for name in {**needed, **values}})


def test_the_readme_shows_the_minimal_example_as_it_is() -> None:
    assert (ROOT / "examples" / "minimal.yaml").read_text("utf-8") in (ROOT / "README.md").read_text("utf-8")


def test_generated_pages_are_fresh_and_links_lead_somewhere() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs", "--check"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_one_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", loratory.__version__)


def test_the_ci_script_runs_the_same_targets() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert {"check", "test"} <= set(re.findall(r"^make (\w+)", script.read_text("utf-8"), flags=re.MULTILINE))


def test_every_runtime_dependency_is_pinned_for_the_makefile() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"]]
    for name in ("gguf", "metrics", "datasets", "quantization", "tensorboard"):
        wanted += extras[name]
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    }
    names = {re.split(r"[\[<>=!~ ;]", each)[0].lower().replace("_", "-") for each in wanted} - {"loratory"}
    assert names <= pinned, names - pinned
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
