"""Resume law: stopped at any moment, also by kill -9, also while saving, a resumed run ends bit-identical."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import training_child

from loratory.config import RunConfig
from loratory.errors import IntegrityError
from loratory.run.commit import sha256_file
from loratory.run.manifest import verify

pytestmark = pytest.mark.kill

TIMINGS = {"tokens_per_s", "memory_mib", "eval_seconds"}
# Dropout, evaluation, a best step, warm-up, unequal rows, a last partial batch, several passes per step.
SETTINGS: Mapping[str, Any] = {
    "adapter.dropout": 0.1,
    "data.val_size": 5,
    "train.num_epochs": 5,
    "train.batch_size": 5,
    "train.micro_batch_size": 2,
    "train.warmup_steps": 3,
    "train.save_steps": 1,
    "train.logging_steps": 2,
    "train.eval_steps": 3,
}


def start(children: ForkServerContext, config: RunConfig, log: Path, *, resume: bool) -> ForkServerProcess:
    process = children.Process(target=training_child.train, args=(config, resume, log))
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    process.join(240)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def curve(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def outcome(run: Path) -> dict[str, object]:
    """Everything that must be equal to the bit."""
    last = max(run.glob("checkpoint-*"), key=lambda p: int(p.name.removeprefix("checkpoint-")))
    verify(last)
    files = ["trainable.safetensors", "optimizer.safetensors", "random.safetensors", "adapter_model.safetensors"]
    return {
        "final": sha256_file(run / "final_model" / "adapter_model.safetensors"),
        "last": last.name,
        **{name: sha256_file(last / name) for name in files},
        "curve": curve(run),
    }


def steps_saved(run: Path) -> int:
    steps = [int(p.name.removeprefix("checkpoint-")) for p in run.glob("checkpoint-*")]
    return max(steps, default=0)


def wait_for_step(process: ForkServerProcess, run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive() and steps_saved(run) < step and time.monotonic() < deadline:
        time.sleep(0.002)


def wait_for_save(process: ForkServerProcess, run: Path) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive() and not any(run.glob(".stage-*")) and time.monotonic() < deadline:
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def unbroken(config_in, children, tmp_path_factory) -> dict[str, object]:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("unbroken")
    log = folder / "log"
    assert finish(start(children, config_in(folder, SETTINGS), log, resume=False)) == 0, log.read_text()
    return outcome(folder / "tiny")


def test_killed_again_and_again(make_config, children, tmp_path, unbroken) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, "run.name": "killed"})
    run, log = tmp_path / "outputs" / "killed", tmp_path / "killed.log"
    generator = random.Random(11)
    kills = in_save = 0
    while kills < 8:
        process = start(children, config, log, resume=kills > 0)
        wait_for_step(process, run, min(steps_saved(run) + generator.randint(0, 2), 17))
        if kills % 2:
            wait_for_save(process, run)
        time.sleep(generator.random() * 0.01)
        process.kill()
        assert finish(process) == -signal.SIGKILL, log.read_text()
        kills += 1
        in_save += any(run.glob(".stage-*"))
    assert finish(start(children, config, log, resume=True)) == 0, log.read_text()
    assert outcome(run) == unbroken
    assert not any(run.glob(".stage-*"))
    assert steps_saved(run) == 20
    assert in_save > 0


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(make_config, children, tmp_path, unbroken, number, exit_code) -> None:  # type: ignore[no-untyped-def]
    # No periodic save: what is there was saved because of the signal.
    config = make_config({**SETTINGS, "train.save_steps": 1000, "train.eval_steps": 3, "run.name": "stopped"})
    run, log = tmp_path / "outputs" / "stopped", tmp_path / "stopped.log"
    process = start(children, config, log, resume=False)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or not curve_has_line(run):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, number)
    assert finish(process) == exit_code, log.read_text()
    assert "Go on with --resume" in log.read_text()
    assert 0 < steps_saved(run) < 20
    assert not (run / "final_model").exists()
    assert finish(start(children, config, log, resume=True)) == 0, log.read_text()
    assert outcome(run) == unbroken


def curve_has_line(run: Path) -> bool:
    return (run / "metrics.jsonl").read_text().count("\n") > 0


def test_a_damaged_newest_checkpoint_costs_steps_not_the_run(make_config, children, tmp_path, unbroken) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, "run.name": "damaged"})
    run, log = tmp_path / "outputs" / "damaged", tmp_path / "damaged.log"
    process = start(children, config, log, resume=False)
    wait_for_step(process, run, 6)
    process.kill()
    finish(process)
    weights = run / f"checkpoint-{steps_saved(run)}" / "optimizer.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 4
    weights.write_bytes(content)
    assert finish(start(children, config, log, resume=True)) == 0, log.read_text()
    assert "optimizer.safetensors: content differs" in log.read_text().replace("\n", "")
    assert len(list((run / "quarantine").iterdir())) == 1
    assert outcome(run) == unbroken


def test_no_sound_checkpoint_is_an_error_that_changes_nothing(make_config, children, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, "run.name": "lost"})
    run, log = tmp_path / "outputs" / "lost", tmp_path / "lost.log"
    process = start(children, config, log, resume=False)
    wait_for_step(process, run, 2)
    process.kill()
    finish(process)
    for manifest in run.glob("checkpoint-*/MANIFEST.json"):
        manifest.write_text("{}")
    for _ in range(2):  # also the second time: nothing was put aside silently
        assert finish(start(children, config, log, resume=True)) == IntegrityError.exit_code
    assert "no checkpoint is sound" in log.read_text()


def test_every_bit_flip_in_a_checkpoint_is_found(make_config, children, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = make_config({"train.max_steps": 1})
    log = tmp_path / "log"
    assert finish(start(children, config, log, resume=False)) == 0, log.read_text()
    checkpoint = tmp_path / "outputs" / "tiny" / "checkpoint-1"
    files = sorted(p for p in checkpoint.iterdir())
    generator = random.Random(3)
    for index in range(300):
        path = files[index % len(files)]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(IntegrityError):
            verify(checkpoint)
        path.write_bytes(content)
    verify(checkpoint)


def test_a_full_disk_now_and_then_only_costs_checkpoints(make_config, children, tmp_path, unbroken) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, "run.name": "full"})
    run, log = tmp_path / "outputs" / "full", tmp_path / "full.log"
    # Not steps with an evaluation: a best step that could not be saved cannot be the final model.
    process = children.Process(target=training_child.train_on_a_full_disk, args=(config, (4, 5, 10, 11), log))
    process.start()
    assert finish(process) == 0, log.read_text()
    assert log.read_text().count("checkpoint not saved (File too large)") == 4
    assert "2 more misses end the run" in log.read_text()
    assert outcome(run) == unbroken


@pytest.mark.parametrize("full_steps", [(2, 3, 4), (20,)], ids=["three in a row", "the last"])
def test_a_disk_that_stays_full_ends_the_run(make_config, children, tmp_path, full_steps) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, "run.name": "full"})
    run, log = tmp_path / "outputs" / "full", tmp_path / "full.log"
    process = children.Process(target=training_child.train_on_a_full_disk, args=(config, full_steps, log))
    process.start()
    assert finish(process) == 5, log.read_text()
    assert "Make room on the disk" in log.read_text()
    assert not (run / "final_model").exists()
    assert not any(run.glob(".stage-*"))
    assert steps_saved(run) == full_steps[0] - 1
    shutil.rmtree(run)
