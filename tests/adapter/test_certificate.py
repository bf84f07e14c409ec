"""Measuring and judging by hand-checked numbers, and the certificate's file."""

import json
import math
from pathlib import Path

import pytest
import torch

from loratory.adapter.certificate import FILE_NAME, Tolerance, judge, measure, read_certificate
from loratory.errors import IntegrityError


def test_measure_by_hand() -> None:
    reference = [torch.tensor([[0.0, math.log(3.0)], [2.0, 0.0]])]
    logits = [torch.tensor([[math.log(3.0), 0.0], [2.0, 0.0]])]
    found = measure(reference, logits)
    assert (found.num_prompts, found.num_positions, found.top1_agreement) == (1, 2, 0.5)
    assert found.max_logit_difference == pytest.approx(math.log(3))
    assert found.logit_scale == 2.0
    # p = (1/4, 3/4), q = (3/4, 1/4): KL = 1/4 ln 1/3 + 3/4 ln 3 = ln(3) / 2, halved by the second position's zero.
    assert found.mean_kl_nats == pytest.approx(math.log(3) / 4)
    assert found.relative_logit_difference == pytest.approx(math.log(3) / 2)


@pytest.mark.parametrize("position", [0, 1])
def test_not_a_number_never_passes(position: int) -> None:
    reference = [torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])]
    logits = [tensor.clone() for tensor in reference]
    logits[position][0, 0] = float("nan")
    found = measure(reference, logits)
    assert len(judge(found, Tolerance(1e9, 1e9, 0.0))) == 2


def test_judge_names_what_is_outside() -> None:
    reference = [torch.tensor([[1.0, 2.0]])]
    same = measure(reference, reference)
    assert judge(same, Tolerance(0.0, 0.0, 1.0)) == []
    other = measure(reference, [torch.tensor([[2.0, 1.0]])])
    faults = judge(other, Tolerance(1e-3, 1e-3, 0.9))
    assert [fault.split()[0] for fault in faults] == ["relative_logit_difference", "mean_kl_nats", "top1_agreement"]
    assert judge(other, Tolerance()) == []


def test_folder_without_certificate(tmp_path: Path) -> None:
    assert read_certificate(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_malformed_certificate(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(IntegrityError, match="not a merge certificate"):
        read_certificate(tmp_path)


def test_malformed_measurement(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"format": 1, "measured": {"x": 1}}), encoding="utf-8")
    with pytest.raises(IntegrityError, match="not a merge certificate"):
        read_certificate(tmp_path)
