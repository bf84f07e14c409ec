import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from loratory.config import RunConfig
from loratory.engine.run_identity import RunIdentity, relevant_config
from loratory.errors import IntegrityError

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def identity(make_config: MakeConfig) -> RunIdentity:
    return RunIdentity(relevant_config(make_config()), "base", {"train": "data"}, {"name": "alpaca", "stop": [2]})


def test_the_same_again_is_accepted_after_json(identity: RunIdentity) -> None:
    identity.refuse_changes(json.loads(json.dumps(identity.to_json())))


def test_every_difference_is_listed_at_once(identity: RunIdentity, make_config: MakeConfig) -> None:
    config = relevant_config(make_config({"train.learning_rate": 0.5, "adapter.rank": 7}))
    now = replace(
        identity, config=config, base="other base", data={"train": "other"}, template={"name": "chat", "stop": [3]}
    )
    with pytest.raises(IntegrityError) as error:
        now.refuse_changes(json.loads(json.dumps(identity.to_json())))
    text = str(error.value)
    assert error.value.exit_code == 4
    for line in ("train.learning_rate: 0.01 then, 0.5 now", "adapter.rank: 4 then, 7 now", "base: ", "data.train: "):
        assert line in text
    assert 'template.name: "alpaca" then, "chat" now' in text
    assert "template.stop: [2] then, [3] now" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.micro_batch_size", 1),
        ("train.memory_budget_gib", 3.0),
        ("train.probe", False),
        ("train.save_steps", 3),
        ("train.gradient_checkpointing", True),
        ("data.train", "moved/train.json"),
        ("predict.max_new_tokens", 3),
        ("run.project", "x"),
    ],
)
def test_what_does_not_shape_the_result_may_change(
    identity: RunIdentity, make_config: MakeConfig, key: str, value: object
) -> None:
    replace(identity, config=relevant_config(make_config({key: value}))).refuse_changes(identity.to_json())


@pytest.mark.parametrize(
    ("key", "value"), [("train.seed", 1), ("data.cutoff_len", 9), ("train.max_steps", 3), ("objective.name", "dpo")]
)
def test_what_shapes_the_result_has_its_own_digest(
    identity: RunIdentity, make_config: MakeConfig, key: str, value: object
) -> None:
    changed = {**relevant_config(make_config()), key: value}
    assert replace(identity, config=changed).digests()["config"] != identity.digests()["config"]
    assert replace(identity, config=changed).digests()["base"] == identity.digests()["base"]
