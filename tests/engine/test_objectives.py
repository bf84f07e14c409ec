"""Every objective trains through the one loop, learns, and goes on exactly after kill -9."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_resume_law import finish, outcome, start, steps_saved, wait_for_step

from loratory.engine.training import run_training

REGISTER = {
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
    },
    "judged": {
        "file_name": "judged.json",
        "columns": {"prompt": "instruction", "response": "output", "kto_tag": "good"},
    },
}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"data.train": "pairs", "objective.name": "dpo"},
    "ipo": {"data.train": "pairs", "objective.name": "dpo", "objective.preference": {"loss": "ipo"}},
    "simpo": {"data.train": "pairs", "objective.name": "simpo", "objective.preference": {"beta": 2.0}},
    "orpo": {"data.train": "pairs", "objective.name": "orpo"},
    "kto": {"data.train": "judged", "objective.name": "kto"},
}
SETTINGS: Mapping[str, Any] = {
    "data.val_size": 4,
    "train.num_epochs": 4,
    "train.batch_size": 5,
    "train.micro_batch_size": 2,
    "train.save_steps": 1,
    "train.eval_steps": 3,
    "train.logging_steps": 1,
}


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows of each kind: good answers start with code, bad ones with sorry."""
    folder = tmp_path_factory.mktemp("preferences")
    questions = [f"question {i} about {'plan' if i % 2 else 'roaming'}" for i in range(24)]
    pairs = [{"instruction": q, "chosen": f"code_{i}", "rejected": f"sorry {i} x"} for i, q in enumerate(questions)]
    pairs.append({"instruction": "equal", "chosen": "same", "rejected": "same"})
    judged = [
        {"instruction": q, "output": f"code_{i}" if i % 2 else f"sorry {i}", "good": bool(i % 2)}
        for i, q in enumerate(questions)
    ]
    for name, content in (("pairs", pairs), ("judged", judged), ("dataset_info", REGISTER)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_learns(make_config, dataset_dir, name, capsys) -> None:  # type: ignore[no-untyped-def]
    config = make_config({**SETTINGS, **OBJECTIVES[name], "data.dataset_dir": str(dataset_dir), "run.name": name})
    result = run_training(config)
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    assert train[-1]["loss"] < train[0]["loss"]
    key = "reward_chosen" if name == "kto" else "reward_margin"
    assert train[-1][key] > train[0][key]
    assert any("eval_loss" in line for line in lines)
    assert (result.final_model / "adapter_config.json").is_file()
    if name != "kto":
        assert "1 left out: chosen and rejected answer are equal (first:" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.kill
@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_resume_is_exact(make_config, children, dataset_dir, tmp_path, name) -> None:  # type: ignore[no-untyped-def]
    outcomes = []
    for kind, kill_at in (("unbroken", None), ("killed", 5)):
        options = {**SETTINGS, **OBJECTIVES[name], "data.dataset_dir": str(dataset_dir), "run.name": kind}
        config = make_config({**options, "run.output_dir": str(tmp_path / kind)})
        run, log = tmp_path / kind / kind, tmp_path / f"{kind}.log"
        if kill_at is not None:
            process = start(children, config, log, resume=False)
            wait_for_step(process, run, kill_at)
            process.kill()
            finish(process)
            assert 0 < steps_saved(run) < 16, log.read_text()
        assert finish(start(children, config, log, resume=kill_at is not None)) == 0, log.read_text()
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]
    assert "reference log-probabilities: from the cache" in (tmp_path / "killed.log").read_text()
