"""An export that is told to end leaves nothing: a real process, a real signal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf")

EXPORT = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from loratory.cli.app import make_app
from loratory.export import gguf_file

def never(*values):
    print("writing", flush=True)
    while True:  # one long sleep might begin just after the signal
        time.sleep(0.1)

gguf_file.compare_file = never
make_app()(sys.argv[1:])
"""


@pytest.mark.kill
def test_an_export_that_is_ended_leaves_nothing(tiny_llama_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "model.gguf"
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, "export", "gguf", str(tiny_llama_dir), "--output", str(output)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n", process.communicate()
    assert len(list((tmp_path / "out").iterdir())) == 2  # the model that is exported, and the file
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, errors
    assert list((tmp_path / "out").iterdir()) == []
