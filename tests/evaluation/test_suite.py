"""A whole evaluation on a tiny model: what is measured, what is refused, what is kept when something fails."""

import json
from pathlib import Path

import pytest

from loratory.config import EvaluationConfig, PredictConfig
from loratory.errors import ConfigError
from loratory.evaluation import suite
from loratory.evaluation.parts import RowSource, Task
from loratory.evaluation.results import Part, read_results
from loratory.evaluation.subject import Subject, locate_subject, open_subject
from loratory.evaluation.suite import part_names, run_suite

QUICK = {"speed_prompt_tokens": 4, "speed_new_tokens": 2, "speed_batch_sizes": [1, 2], "speed_repeats": 2}


@pytest.fixture
def subject(tiny_llama_dir: Path) -> Subject:
    return open_subject(locate_subject(str(tiny_llama_dir)))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "test.json"
    values = [{"instruction": f"cancel {i}", "input": "", "output": "cancel_68"} for i in range(4)]
    file.write_text(json.dumps(values), "utf-8")
    return file


def task(folder: Path, rows: Path | None = None, **fields: object) -> Task:
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40, "utf-8")
    values = {**QUICK, "perplexity_texts": [str(folder / "text.txt")], "zero_shot_tasks": [], **fields}
    return Task(
        evaluation=EvaluationConfig.model_validate(values),
        predict=PredictConfig(max_new_tokens=4),
        rows=None if rows is None else RowSource(str(rows)),
        seed=0,
        predictions=folder / "generated_predictions.jsonl",
        progress=lambda label, done, total: None,
    )


def names(part: Part) -> set[tuple[str, str]]:
    return {(measure.name.partition("@")[0], measure.on) for measure in part.measures}


def test_every_part_measures_and_says_on_what(subject: Subject, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "evaluation_results.json"
    found = run_suite(subject, task(tmp_path, rows), parts=("memory", "speed", "ppl", "text"), output=output)
    assert read_results(output) == found
    assert found.status == "complete"
    parts = found.parts
    assert parts["zero_shot"].note == "not asked for"
    assert names(parts["ppl"]) == {
        ("perplexity", "text.txt"),
        ("bits_per_token", "text.txt"),
        ("bits_per_byte", "text.txt"),
        ("perplexity", "test.json"),
        ("perplexity_sample_mean", "test.json"),
    }
    assert {data.name: len(str(data.sha256)) for data in parts["ppl"].data} == {"text.txt": 64, "test.json": 64}
    assert ("decode", "batch 2") in names(parts["speed"])
    assert {("macs", ""), ("peak_memory", "batch 1"), ("size_on_disk", "")} <= names(parts["memory"])
    answers = [json.loads(line) for line in (tmp_path / "generated_predictions.jsonl").read_text("utf-8").splitlines()]
    assert [answer["label"] for answer in answers] == ["cancel_68"] * 4
    assert parts["text"].measures[0].n == 4
    for part in parts.values():
        for measure in part.measures:
            assert measure.definition
            assert measure.n > 0
            assert measure.low is None or measure.low <= measure.value <= (measure.high or 0)
    assert found.environment.threads >= 1
    assert len(found.subject.base_identity) == 64


def test_what_fails_is_recorded_and_the_rest_goes_on(subject: Subject, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    wish = task(tmp_path, perplexity_texts=["ptb", str(tmp_path / "text.txt")], perplexity_window=64, limit=2)
    found = run_suite(subject, wish, parts=("ppl", "memory", "text"), output=output)
    assert (found.status, found.exit_code) == ("partial", 2)
    assert found.parts["ppl"].status == "partial"
    assert found.parts["ppl"].faults[0].on == "ptb"
    assert "--text ptb:FILE" in found.parts["ppl"].faults[0].reason
    assert found.parts["ppl"].measures[0].name.endswith(",first=2")
    assert found.parts["memory"].status == "complete"
    assert found.parts["text"].status == "skipped"
    assert "--data FILE" in found.parts["text"].note


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "cancel", "input": ""}, "output"),
        ({"instruction": "cancel " * 900, "input": "", "output": "x"}, "context"),
    ],
)
def test_rows_without_labels_and_rows_beyond_the_context(
    subject: Subject, rows: Path, tmp_path: Path, row: dict[str, str], reason: str
) -> None:
    rows.write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}, row]), "utf-8")
    found = run_suite(subject, task(tmp_path, rows), parts=("text", "ppl"), output=tmp_path / "r.json")
    assert found.parts["text"].status == "failed"
    assert found.parts["ppl"].status == "partial"
    for part in ("text", "ppl"):
        assert reason in found.parts[part].faults[0].reason
        assert "test.json" in found.parts[part].faults[0].reason
    assert found.exit_code == 2


def test_without_a_stop_token_texts_are_scored_and_rows_are_not(subject: Subject, rows: Path, tmp_path: Path) -> None:
    subject.tokenizer.eos_token = None
    subject.tokenizer.chat_template = None
    found = run_suite(subject, task(tmp_path, rows), parts=("ppl", "text"), output=tmp_path / "r.json")
    assert ("perplexity", "text.txt") in names(found.parts["ppl"])
    assert "EOS" in found.parts["text"].faults[0].reason


def test_a_task_without_local_data_offline_is_named_and_others_are_scored(
    subject: Subject, tmp_path: Path, shared_data: Path
) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "zero_shot").mkdir()
    source = shared_data / "zero_shot" / "openbookqa_test.jsonl"
    (tmp_path / "zero_shot" / source.name).write_bytes(source.read_bytes())
    wish = task(tmp_path, zero_shot_tasks=["hellaswag", "openbookqa", "nonsense"], data_dir=str(tmp_path), limit=3)
    found = run_suite(subject, wish, parts=("zero_shot",), output=tmp_path / "r.json")
    part = found.parts["zero_shot"]
    assert part.status == "partial"
    assert names(part) == {("acc", "openbookqa"), ("acc_norm", "openbookqa")}
    assert [fault.on for fault in part.faults] == ["hellaswag", "nonsense"]
    assert part.measures[0].n == 3


def test_a_bug_leaves_what_was_measured(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: Subject, task: Task, log: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(suite, "PARTS", {**suite.PARTS, "ppl": broken})
    with pytest.raises(TypeError, match="a bug"):
        run_suite(subject, task(tmp_path), parts=("memory", "ppl"), output=tmp_path / "r.json")
    kept = read_results(tmp_path / "r.json")
    assert kept.status == "partial"
    assert kept.parts["memory"].status == "complete"
    assert kept.parts["ppl"].status == "not_run"


def test_names_of_parts() -> None:
    assert set(part_names("all")) == {"memory", "speed", "ppl", "zero_shot", "text"}
    assert part_names("ppl, memory") == ("memory", "ppl")
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        part_names("memry")
    with pytest.raises(ConfigError, match="none was named"):
        part_names(" , ")
