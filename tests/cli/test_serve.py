"""`loratory serve`: a run in a real process that drains on SIGTERM; names, keys and refusals on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app
from loratory.cli.serve import _sources
from loratory.config.document import dump_document
from loratory.errors import ConfigError
from loratory.infer.server.vllm import vllm_command

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


@pytest.fixture(scope="module")
def finished_run(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by `loratory train`."""
    folder = tmp_path_factory.mktemp("serve")
    rows = [{"instruction": f"question {i}", "input": "", "output": "yes" if i % 2 else "no"} for i in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    values = {
        "model": {"model_name_or_path": str(tiny_llama_dir)},
        "data": {"train": str(folder / "rows.json"), "template": "chatml"},
        "train": {"num_epochs": 1.0, "batch_size": 4, "learning_rate": 1e-2},
        "run": {"output_dir": str(folder / "outputs"), "name": "first"},
    }
    (folder / "run.yaml").write_text(dump_document(values), "utf-8")
    result = invoke("train", folder / "run.yaml")
    assert result.exit_code == 0, result.output
    return folder / "outputs" / "first"


@pytest.mark.kill
def test_a_process_serves_run_adapter_and_base_and_drains_on_sigterm(finished_run: Path, tiny_llama_dir: Path) -> None:
    adapter = finished_run / "final_model"
    process = subprocess.Popen(
        [sys.executable, "-m", "loratory", "serve", finished_run, f"--adapter=second={adapter}", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (.+) at (http://127\.0\.0\.1:\d+/v1)\n", line)
        assert found is not None, line
        key = process.stdout.readline().removeprefix("key: ").strip()
        with openai.OpenAI(base_url=found[2], api_key=key, max_retries=0, timeout=60) as client:
            names = [model.id for model in client.models.list()]
            assert names == ["first", "second", tiny_llama_dir.name] == found[1].split(", ")

            def ask(name: str, max_tokens: int) -> tuple[int, str]:
                reply = client.completions.create(
                    model=name, prompt="a", max_tokens=max_tokens, temperature=2, seed=7, timeout=60
                )
                assert reply.usage is not None
                return reply.usage.completion_tokens, reply.choices[0].text

            assert ask("first", 3) == ask("second", 3)

            def follow(name: str, has_begun: threading.Event) -> str | None:
                """Why a streamed answer ended."""
                stream = client.completions.create(
                    model=name, prompt="a", max_tokens=450, temperature=2, seed=7, timeout=60, stream=True
                )
                reason = None
                for chunk in stream:
                    has_begun.set()
                    reason = chunk.choices[0].finish_reason or reason
                return reason

            with ThreadPoolExecutor(4) as pool:
                begun = {name: threading.Event() for name in names}
                under_way = [pool.submit(follow, name, event) for name, event in begun.items()]
                assert all(event.wait(60) for event in begun.values())
                process.send_signal(signal.SIGTERM)
                time.sleep(0.05)
                with pytest.raises((openai.InternalServerError, openai.APIConnectionError)) as refusal:
                    ask("first", 1)
                if isinstance(refusal.value, openai.InternalServerError):
                    assert refusal.value.status_code == 503
                else:
                    assert all(one.done() for one in under_way)
                assert {one.result() for one in under_way} <= {"stop", "length"}
        assert process.wait(30) == 0
        assert process.stdout.read() == "stopped: all requests were finished\n"
    finally:
        process.kill()
        process.wait()


def test_other_machines_need_a_key_of_the_users_own(tiny_llama_dir: Path, tmp_path: Path) -> None:
    result = invoke("serve", tiny_llama_dir, "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--api-key-file" in result.output
    short = tmp_path / "key"
    short.write_text("short\n")
    assert "at least 16" in invoke("serve", tiny_llama_dir, "--api-key-file", short).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "red"], "NAME=PATH"),
        (["--adapter", "red={base}"], "whole model"),
        (["--adapter", "../x={adapter}"], "model name '../x'"),
        (["--adapter", "first={adapter}"], "given twice"),
        (["--engine", "other"], "--engine"),
        (["--engine", "vllm"], "chat template"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(
    finished_run: Path, tiny_llama_dir: Path, arguments: list[str], message: str
) -> None:
    filled = [text.format(base=tiny_llama_dir, adapter=finished_run / "final_model") for text in arguments]
    result = invoke("serve", finished_run, "--port", "0", *filled)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_vllm_is_given_names_ranks_and_no_key(finished_run: Path, tiny_llama_dir: Path) -> None:
    subject, sources = _sources(str(finished_run), [], name="mine", base=None)
    place = {"host": "127.0.0.1", "port": 8000, "max_context": 256}
    with pytest.raises(ConfigError, match=r"mine \(chatml\)"):
        vllm_command("python", "BASE", sources, **place)  # type: ignore[arg-type]
    command = vllm_command("python", "BASE", sources, **place, force_template=True)  # type: ignore[arg-type]
    assert " ".join(command) == (
        "python -m vllm.entrypoints.openai.api_server --model BASE --host 127.0.0.1 --port 8000 "
        f"--served-model-name {tiny_llama_dir.name} --enable-lora --max-loras 1 --max-lora-rank 8 "
        f"--lora-modules mine={subject.adapter_dir} --max-model-len 256"
    )
    whole = _sources(str(tiny_llama_dir), [], name="whole", base=None)[1]
    assert vllm_command("python", "BASE", whole, host="127.0.0.1", port=1, max_context=None)[-2:] == [
        "--served-model-name",
        "whole",
    ]
