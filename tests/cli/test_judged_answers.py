"""KTO on real judged answers by the commands a user types: training, its evaluation, and predictions."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loratory.cli.app import make_app

RUN = """
model: {{model_name_or_path: {model}}}
data: {{train: kto_en_demo, dataset_dir: {data}, template: chat, cutoff_len: 500, truncation: drop, val_size: 20}}
adapter: {{rank: 8}}
objective: {{name: kto}}
train: {{batch_size: 16, num_epochs: 4, eval_steps: 8, logging_steps: 1, learning_rate: 1.0e-2, num_threads: 1}}
predict: {{max_new_tokens: 4}}
run: {{output_dir: {folder}, name: judged}}
"""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(each) for each in arguments])


@pytest.fixture(scope="module")
def run(tiny_llama_dir: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the rows of the published file that fit into the context."""
    folder = tmp_path_factory.mktemp("judged")
    data = shared_data / "llamafactory_demo"
    (folder / "run.yaml").write_text(RUN.format(model=tiny_llama_dir, data=data, folder=folder))
    done = invoke("train", folder / "run.yaml")
    assert done.exit_code == 0, done.output
    assert "dropped" in done.stderr
    return folder / "judged"


def mean(lines: list[dict[str, float]], name: str) -> float:
    found = [line[name] for line in lines if name in line]  # a batch may be of one kind
    return sum(found) / len(found)


def test_good_answers_become_likelier_than_bad_ones(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-4)  # the policy is its own reference yet
    assert all(line["kl"] >= 0 for line in steps)
    last = steps[-len(steps) // 4 :]  # the last epoch
    assert mean(last, "loss") < 0.47
    assert mean(last, "reward_chosen") - mean(last, "reward_rejected") > 0.3
    assert sum("eval_loss" in line for line in lines) >= 2


def test_only_good_answers_are_compared_with(run: Path, shared_data: Path, tmp_path: Path) -> None:
    rows = json.loads((shared_data / "llamafactory_demo" / "kto_en_demo.json").read_text("utf-8"))
    short = [row for row in rows if sum(len(turn["content"]) for turn in row["messages"]) < 400]
    chosen = [next(row for row in short if row["label"] is label) for label in (True, False)]
    (tmp_path / "both.json").write_text(json.dumps(chosen))
    (tmp_path / "good.json").write_text(json.dumps(chosen[:1]))
    done = invoke("predict", run, "--data", tmp_path / "both.json")
    assert done.exit_code == 0, done.output
    assert "without an answer, or with one that was judged bad: 1;" in done.stderr
    written = (run / "predictions" / "both" / "generated_predictions.jsonl").read_text("utf-8").splitlines()
    labels = [json.loads(line)["label"] for line in written]
    assert labels == [chosen[0]["messages"][-1]["content"], ""]
    assert not (run / "predictions" / "both" / "text_metrics.json").exists()
    done = invoke("predict", run, "--data", tmp_path / "good.json")
    assert done.exit_code == 0, done.output
    assert (run / "predictions" / "good" / "text_metrics.json").exists()
