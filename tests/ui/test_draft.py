"""A run file on the page: every fault at once, a plan, and a run's file as the beginning of the next."""

from pathlib import Path

import pytest

from loratory.config import build_config, config_to_yaml
from loratory.config.document import parse_document
from loratory.errors import ConfigError
from loratory.ui.draft import BLANK, draft_of_run, faults, next_name, plan_draft, read_draft

GOOD = "model: {model_name_or_path: tiny}\ndata: {train: rows.json}\n"


def test_every_fault_is_told_and_none_where_there_is_none() -> None:
    assert faults(GOOD) == ()
    found = faults(GOOD + "train: {lerning_rate: 1e-4}\nadapter: {rank: eight}\n")
    assert len(found) == 2
    assert any("Did you mean 'train.learning_rate'" in fault for fault in found)
    assert faults("model: {model_name_or_path: tiny}\ndata: {train: []}\n")[0].startswith("data.train")
    assert "not valid YAML" in faults("model: [")[0]
    assert "nothing" in faults("")[0]
    assert len(faults(BLANK)) == 2


def test_text_that_would_run_code_or_fill_the_memory_is_refused() -> None:
    assert "Python objects" in faults("model: !!python/object/apply:os.system ['true']\n")[0]
    assert "Python code" in faults(GOOD + "objective: {rollout: {reward_function: a:b}}\n")[0]
    assert "too large" in faults("# " + "x" * 300_000)[0]


def test_a_runs_file_begins_the_next_under_a_free_name() -> None:
    values = {
        "model": {"model_name_or_path": "tiny"},
        "data": {"train": "rows.json", "template": "chatml"},
        "train": {"num_epochs": 1.0, "seed": 7},
        "run": {"name": "first", "output_dir": "elsewhere"},
    }
    config = build_config(values)
    found = draft_of_run(config_to_yaml(config), ["first", "first-2"])
    assert parse_document(found, "draft") == {
        **values,
        "run": {"name": "first-3"},
    }
    own = config.run.model_copy(update={"name": "first-3", "output_dir": "outputs"})
    assert read_draft(found).config == config.model_copy(update={"run": own})
    assert draft_of_run("model: [", ["first"]) == "model: ["


def test_names() -> None:
    assert next_name("run", []) == "run"
    assert next_name("run", ["run", "run-2"]) == "run-3"


def test_a_plan_loads_no_weights_and_names_what_is_missing(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"instruction": "hello", "input": "", "output": "yes"}]')
    text = f"model: {{model_name_or_path: {tiny_llama_dir}}}\ndata: {{train: {tmp_path / 'rows.json'}}}\n"
    plan, _ = plan_draft(text, may_calibrate=False)
    assert plan.peak_bytes > plan.forecast.memory.weights > 0
    with pytest.raises(ConfigError, match="unknown"):
        plan_draft(text + "adapter: {ranks: 8}\n", may_calibrate=False)
