"""Two real processes against one."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
import training_child
from safetensors.torch import load_file

SETTINGS = {"train.num_epochs": 2, "train.batch_size": 5, "data.val_size": 5, "train.eval_steps": 2}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.kill
def test_two_processes_train_what_one_trains(make_config, children, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outputs = tmp_path / "outputs"
    single = children.Process(
        target=training_child.train, args=(make_config({**SETTINGS, "run.name": "one"}), False, tmp_path / "one.log")
    )
    single.start()
    single.join(300)
    assert single.exitcode == 0, (tmp_path / "one.log").read_text()
    shutil.rmtree(outputs / ".tokens")  # the pair tokenises for itself: the main process first
    port = free_port()
    config = make_config({**SETTINGS, "run.name": "two"})
    pair = []
    for rank in range(2):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        log = tmp_path / f"two-{rank}.log"
        pair.append(children.Process(target=training_child.train, args=(config, False, log, environment)))
        pair[-1].start()
    for process in pair:
        process.join(300)
    logs = [(tmp_path / f"two-{rank}.log").read_text() for rank in range(2)]
    assert [p.exitcode for p in pair] == [0, 0], logs
    assert logs[1] == ""  # only the main process speaks
    assert len(list((outputs / ".tokens").iterdir())) == 1
    one = load_file(outputs / "one" / "final_model" / "adapter_model.safetensors")
    two = load_file(outputs / "two" / "final_model" / "adapter_model.safetensors")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    for a, b in zip(curve(outputs / "one"), curve(outputs / "two"), strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "eval_loss", "supervised_tokens", "token_accuracy", "learning_rate"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=1e-5)
    assert json.loads((outputs / "two" / "provenance.json").read_text())["num_processes"] == 2


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
