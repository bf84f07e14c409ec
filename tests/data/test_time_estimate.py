"""Time estimates say where they come from."""

import json
from pathlib import Path

import pytest

from loratory.data.time_estimate import estimate_from_run, parameter_count, rough_estimate
from loratory.errors import RunError


def test_from_a_run_between_its_slow_and_fast_steps(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "tokens_per_s": rate}) for i, rate in enumerate([100, 200, 50, 100, 100])]
    metrics.write_text("\n".join([*lines, '{"evaluation_loss": 1.0}', '{"cut o']), encoding="utf-8")
    estimate = estimate_from_run(1000, metrics)
    assert (estimate.low_s, estimate.high_s) == (5.0, 20.0)
    assert "100 tokens/s at its median over 5 steps" in estimate.basis


def test_a_run_without_rates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        estimate_from_run(1, tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(RunError, match="tokens_per_s"):
        estimate_from_run(1, tmp_path / "metrics.jsonl")


def test_rule_of_thumb_by_hand_and_says_so() -> None:
    estimate = rough_estimate(1_000_000, 100_000_000)
    assert (estimate.low_s, estimate.high_s) == (1500.0, 30000.0)
    assert "not measured" in estimate.basis


def test_parameters_from_the_headers_of_the_weights(tiny_llama_dir: Path, tiny_llama: object, tmp_path: Path) -> None:
    import torch

    assert isinstance(tiny_llama, torch.nn.Module)
    assert parameter_count(tiny_llama_dir) == sum(each.numel() for each in tiny_llama.parameters())
    assert parameter_count(tmp_path) is None
    assert parameter_count(tmp_path / "absent") is None
