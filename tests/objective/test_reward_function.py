"""A reward function by import path, and the run file that must not name one."""

from pathlib import Path

import pytest

from loratory.config import read_config
from loratory.errors import RewardError, UnsafeError
from loratory.objective.reward_function import load_reward_function

SOURCE = """
def length(prompt, answer, label):
    return len(answer)

def lonely(answer):
    return 0.0

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rewards_of_a_test.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("name", ["rewards_of_a_test", "rewards_of_a_test.py"])
def test_module_or_file(module: Path, name: str) -> None:
    found = load_reward_function(f"{name}:length")
    assert found.function("", "four", "") == 4
    assert found.path == f"{name}:length"
    module.write_text(SOURCE + "\n# changed\n")
    assert len(found.source_sha256) == 64
    if name.endswith(".py"):
        assert load_reward_function(f"{name}:length").source_sha256 != found.source_sha256


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("length", "expected module:function"),
        ("not_there_at_all:length", "cannot import"),
        ("not_there.py:length", "there is no file"),
        ("rewards_of_a_test.py:nobody", "has no function 'nobody'"),
        ("rewards_of_a_test.py:number", "has no function 'number'"),
        ("rewards_of_a_test.py:lonely", "must take three texts"),
    ],
)
def test_what_is_wrong_is_said(module: Path, path: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        load_reward_function(path)


@pytest.mark.parametrize("place", ["objective: {rollout: {reward_function: os:system}}", "reward_function: os:system"])
def test_a_run_file_may_not_name_code(tmp_path: Path, place: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {{model_name_or_path: m}}\ndata: {{train: d}}\n{place}\n")
    with pytest.raises(UnsafeError, match="--reward-function") as raised:
        read_config(file)
    assert raised.value.exit_code == 3
