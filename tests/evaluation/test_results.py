"""The results file: whole at every moment, read back strictly, its schema published."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import DataError
from loratory.evaluation.measure import Measure, Spread, exact, median_of
from loratory.evaluation.results import (
    DataUsed,
    Environment,
    Fault,
    Part,
    Results,
    SubjectCard,
    read_results,
    results_schema,
    write_results,
)


def some_results() -> Results:
    subject = SubjectCard("model", "m", "m", "ab", None, None, False, "LlamaForCausalLM", "float32", None, "auto")
    environment = Environment({"torch": "2"}, None, "3.11", "Linux", "x86_64", "cpu", 2, 1)
    results = Results(1, "partial", "2026-01-01T00:00:00+00:00", subject, environment, {"evaluation": {}})
    return results.with_part("ppl", Part()).with_part("speed", Part("skipped", note="not asked for"))


def measured() -> Part:
    value = median_of("decode@batch=1", [1.0, 2.0, 4.0], "tokens/s", "words", on="batch 1", n_of="repeats")
    assert (value.value, value.spread) == (2.0, Spread(1.0, 1.5, 2.0, 3.0, 4.0))
    counted = exact("parameters", 7, "parameters", "words")
    return Part("complete", 1.5, (value, counted), (DataUsed("t", "f", {"a": "b"}, ("n",)),))


def test_written_results_are_read_back_equal(tmp_path: Path) -> None:
    results = some_results().with_part("ppl", measured())
    write_results(tmp_path / "new" / "r.json", results)
    assert read_results(tmp_path / "new" / "r.json") == results
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.json"]


def test_status_and_exit_code_follow_from_the_parts() -> None:
    results = some_results()
    assert (results.status, results.exit_code) == ("partial", 1)
    complete = results.with_part("ppl", measured())
    assert (complete.status, complete.exit_code) == ("complete", 0)
    failed = complete.with_part("speed", Part("failed", faults=(Fault("batch 1", "why", 5),)))
    assert (failed.status, failed.exit_code) == ("partial", 5)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"status": "done"}, "status"),
        ({"parts": {"ppl": {"status": "complete", "seconds": "1"}}}, "seconds"),
        ({"subject": None}, "subject"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    write_results(tmp_path / "r.json", some_results())
    values = json.loads((tmp_path / "r.json").read_text("utf-8")) | change
    (tmp_path / "r.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(DataError, match=place):
        read_results(tmp_path / "r.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "none.json")


def test_numbers_that_json_does_not_know_are_never_written(tmp_path: Path) -> None:
    bad: Measure = replace(exact("x", 1, "u", "d"), value=float("nan"))
    with pytest.raises(ValueError):
        write_results(tmp_path / "r.json", some_results().with_part("ppl", Part("complete", measures=(bad,))))
    assert not list(tmp_path.iterdir())


def test_the_published_schema_is_the_codes() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "evaluation.schema.json"
    assert json.loads(page.read_text("utf-8")) == results_schema()
    measure = results_schema()["$defs"]["Measure"]
    assert {"name", "value", "unit", "n", "low", "high", "interval", "definition"} <= set(measure["required"])
