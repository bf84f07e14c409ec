from pathlib import Path

import pytest

from loratory.errors import IntegrityError
from loratory.run.metrics import MetricsLog, read_metrics


def test_lines_are_there_at_once_and_cut_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 6):
            log.write({"step": step, "loss": 1 / step})
        assert len(read_metrics(path)) == 5  # before closing
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    with MetricsLog(path, keep_lines=3) as log:
        log.write({"step": 4, "loss": 0.25})
        assert log.num_lines == 4
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    assert read_metrics(path)[2]["loss"] == 1 / 3


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsLog(path).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("content", ['{"step": 1}\n', '{"step": 1}\nrubbish\n', '{"step": 1}\n[2]\n', None])
def test_fewer_or_damaged_lines_than_the_checkpoint_counts(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl"):
        MetricsLog(path, keep_lines=2)
    assert content is None or path.read_text() == content


def test_non_finite_values_are_refused(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"step": 1, "loss": float("nan")})
