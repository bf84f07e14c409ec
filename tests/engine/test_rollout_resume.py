"""Resume law with rollouts: killed between the updates on one rollout, a resumed run ends bit-identical."""

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from test_resume_law import finish, outcome, start, steps_saved, wait_for_step

from loratory.run.commit import sha256_file

pytestmark = pytest.mark.kill

# Two epochs of three mini-batches: six updates on each rollout, the seventh prompt makes a small last one.
ROLLOUT = {
    "prompts": 3,
    "samples_per_prompt": 3,
    "max_new_tokens": 6,
    "reward": "regex",
    "reward_pattern": "[aeiou]",
    "length_penalty": 0.01,
}
SETTINGS: Mapping[str, Any] = {
    "adapter.dropout": 0.1,
    "data.val_size": 3,
    "objective.rollout": ROLLOUT,
    "train.batch_size": 3,
    "train.max_steps": 16,
    "train.save_steps": 1,
    "train.logging_steps": 2,
    "train.eval_steps": 5,
}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"objective.ppo": {"epochs": 2, "kl_target": 0.5, "kl_horizon": 20}},
    "grpo": {"objective.grpo": {"epochs": 2, "beta": 0.02}},
}


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_killed_in_the_middle_of_a_rollout(make_config, children, tmp_path, name) -> None:  # type: ignore[no-untyped-def]
    options = {**SETTINGS, **OBJECTIVES[name], "objective.name": name}
    whole = make_config({**options, "run.name": "whole"})
    log = tmp_path / "log"
    assert finish(start(children, whole, log, resume=False)) == 0, log.read_text()
    killed = make_config({**options, "run.name": "killed"})
    run = tmp_path / "outputs" / "killed"
    generator, stopped_at = random.Random(4), []
    while len(stopped_at) < 4:
        process = start(children, killed, log, resume=bool(stopped_at))
        wait_for_step(process, run, steps_saved(run) + generator.choice([1, 2, 4]))
        process.kill()
        finish(process)
        stopped_at.append(steps_saved(run))
    assert any(step % 6 for step in stopped_at), "no kill fell between the updates of one rollout"
    assert finish(start(children, killed, log, resume=True)) == 0, log.read_text()
    assert outcome(run) == outcome(tmp_path / "outputs" / "whole")
    last = run / "checkpoint-16"
    state = json.loads((last / "rollout.json").read_text())
    assert state["rollout"] == 2
    assert len(state["rows"]) == 9
    if name == "ppo":
        assert state["objective"]["kl_coefficient"] != 0.05
        heads = [sha256_file(folder / "final_model" / "beside.safetensors") for folder in (run, run.parent / "whole")]
        assert heads[0] == heads[1]
