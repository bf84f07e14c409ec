"""A merge that is killed, or that fills the disk, leaves nothing under the final name: real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from random_adapter import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

MERGE = """
import resource, signal, sys
from pathlib import Path
from loratory.adapter import streamed_merge
from loratory.cli import failures_as_exit_codes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.signal(signal.SIGTERM, signal.SIG_DFL)
write = streamed_merge.write_shard
def slow(path, entries):
    if sys.argv[4] == "slow":
        done = write(path, entries)
        print("written", flush=True)
        import time
        time.sleep(60)
        return done
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    return write(path, entries)
streamed_merge.write_shard = slow
with failures_as_exit_codes():
    from loratory.adapter.merge import merge_adapter
    from loratory.config import ModelConfig
    base, adapter, output = map(Path, sys.argv[1:4])
    merge_adapter(ModelConfig(model_name_or_path=str(base)), adapter, output)
"""


def start(base: Path, folder: Path, how: str) -> "subprocess.Popen[str]":
    write_adapter(base, folder / "adapter")
    (folder / "out").mkdir()
    arguments = [str(base), str(folder / "adapter"), str(folder / "out" / "merged"), how]
    return subprocess.Popen(
        [sys.executable, "-c", MERGE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_merge_publishes_nothing(tiny_llama_dir: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(tiny_llama_dir, tmp_path, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), errors
    assert not (tmp_path / "out" / "merged").exists()
    if number != signal.SIGKILL:
        assert list((tmp_path / "out").iterdir()) == []


def test_write_that_fails_publishes_nothing(tiny_llama_dir: Path, tmp_path: Path) -> None:
    process = start(tiny_llama_dir, tmp_path, "full")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 5, errors
    assert "could not be written" in errors
    assert list((tmp_path / "out").iterdir()) == []
