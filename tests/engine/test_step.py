"""Accumulation law and numerics law of one optimizer step."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaForCausalLM

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, TrainConfig
from loratory.data.sequence import TokenSequence
from loratory.engine.micro_batching import MicroBatching
from loratory.engine.optimizer import make_optimizer, trainable_parameters
from loratory.engine.ranks import Ranks
from loratory.engine.step import StepResult, TrainStep
from loratory.errors import AdapterError, DataError, NumericsError, ResourceError
from loratory.objective import SftObjective
from loratory.objective.row import Row
from loratory.tree.padded import PaddedScorer

WHOLE = MicroBatching(None, None)


def rows(num_rows: int = 7) -> list[Row]:
    """Rows of very unequal length and unequal share of supervised tokens."""
    generator = np.random.default_rng(0)
    made = []
    for index in range(num_rows):
        length = int(generator.integers(3, 40))
        prompt = int(generator.integers(1, length - 1))
        weights = np.zeros(length, dtype=np.float32)
        weights[prompt:] = 1
        ids = generator.integers(6, 390, length)
        made.append(Row((TokenSequence(ids, weights, prompt),), f"rows.json:{index + 1}", float(weights.sum())))
    return made


def adapted(model: LlamaForCausalLM, *, targets: list[str] | str = "all") -> torch.nn.Module:
    attached = attach_adapter(model, AdapterConfig(rank=2, targets=targets), seed=0).model
    torch.manual_seed(1)
    for name, parameter in trainable_parameters(attached).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return attached


def step_on(
    model: torch.nn.Module,
    batching: MicroBatching = WHOLE,
    *,
    dump_dir: Path | None = None,
    max_grad_norm: float = 1e9,
    autocast_dtype: torch.dtype | None = None,
) -> TrainStep:
    return TrainStep(
        PaddedScorer(model, reason="test"),  # type: ignore[arg-type]
        SftObjective(),
        parameters=trainable_parameters(model),
        optimizer=make_optimizer(trainable_parameters(model), TrainConfig(optimizer="sgd", learning_rate=0.5)),
        ranks=Ranks(Accelerator(cpu=True)),
        micro_batching=batching,
        max_grad_norm=max_grad_norm,
        autocast_dtype=autocast_dtype,
        dump_dir=dump_dir,
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in trainable_parameters(model).items() if p.grad is not None}


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainable_parameters(model).items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_accumulation_law(tiny_llama: LlamaForCausalLM, dtype: torch.dtype, tolerance: float) -> None:
    model = adapted(tiny_llama).to(dtype)
    start = weights(model)
    outcomes: list[tuple[StepResult, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
    for batching in (WHOLE, MicroBatching(1, None), MicroBatching(2, None), MicroBatching(None, 40)):
        with torch.no_grad():
            for name, parameter in trainable_parameters(model).items():
                parameter.copy_(start[name])
        result = step_on(model, batching)(rows(), 0)
        outcomes.append((result, gradients(model), weights(model)))
    whole, whole_gradients, whole_weights = outcomes[0]
    norm = max(float(g.abs().max()) for g in whole_gradients.values())
    for result, gradient, updated in outcomes[1:]:
        assert result.count == whole.count
        assert result.loss_sum == pytest.approx(whole.loss_sum, rel=tolerance)
        assert result.grad_norm == pytest.approx(whole.grad_norm, rel=10 * tolerance)
        assert result.metrics == whole.metrics
        for name in gradient:
            torch.testing.assert_close(gradient[name], whole_gradients[name], rtol=0, atol=tolerance * norm)
            torch.testing.assert_close(updated[name], whole_weights[name], rtol=0, atol=tolerance)


def test_loss_is_the_mean_over_supervised_tokens(tiny_llama: LlamaForCausalLM) -> None:
    batch = rows()
    model = adapted(tiny_llama)
    total = tokens = 0.0
    with torch.no_grad():
        for row in batch:
            (sequence,) = row.sequences
            ids = torch.tensor(sequence.token_ids)[None]
            labels = torch.where(torch.tensor(sequence.weights)[None] > 0, ids, -100)
            total += float(model(input_ids=ids, labels=labels).loss) * sequence.num_supervised
            tokens += sequence.num_supervised
    result = step_on(model)(batch, 0)
    assert result.count == tokens
    assert result.loss_sum / result.count == pytest.approx(total / tokens, rel=1e-5)


def test_clipping_scales_to_the_norm(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama)
    result = step_on(model, max_grad_norm=1e-3)(rows(), 0)
    clipped = math.sqrt(sum(float(g.square().sum()) for g in gradients(model).values()))
    assert result.grad_norm > 1e-2
    assert clipped == pytest.approx(1e-3, rel=1e-3)


def test_a_non_finite_loss_stops_before_the_step_and_names_the_rows(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    batch = rows()
    bad_token = 395  # rows() draws below 390
    batch[4].sequences[0].token_ids[0] = bad_token
    with torch.no_grad():
        tiny_llama.model.embed_tokens.weight[bad_token] = float("nan")
    model = adapted(tiny_llama)
    before = weights(model)
    step = step_on(model, MicroBatching(1, None), dump_dir=tmp_path)
    with pytest.raises(NumericsError, match=r"step 13: the loss is not finite \(nan\).*rows\.json:5\."):
        step(batch, 12)
    assert all(torch.equal(before[n], p) for n, p in weights(model).items())
    dumped = json.loads((tmp_path / "numerics-step-13.json").read_text())
    assert dumped["rows"] == [{"origin": "rows.json:5", "num_tokens": batch[4].num_tokens}]


def test_a_non_finite_gradient_stops_before_the_step_and_names_tensors(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    model = adapted(tiny_llama)
    name, parameter = list(trainable_parameters(model).items())[3]
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(NumericsError, match="the gradient is not finite"):
        step_on(model, dump_dir=tmp_path)(rows(), 0)
    assert all(torch.equal(before[n], p) for n, p in weights(model).items())
    assert json.loads((tmp_path / "numerics-step-1.json").read_text())["parameters"] == [name]


def test_float16_overflow_halves_the_scale_and_skips_the_step(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama)
    parameter = next(iter(trainable_parameters(model).values()))
    handle = parameter.register_hook(lambda gradient: gradient * float("inf"))
    step = step_on(model, autocast_dtype=torch.float16)
    before, scale = weights(model), step.scale.value
    assert step(rows(), 1).is_skipped
    assert step.scale.value == scale / 2
    assert all(torch.equal(before[n], p) for n, p in weights(model).items())
    handle.remove()
    reference = step_on(model)(rows(), 1).grad_norm
    with torch.no_grad():
        for name, p in trainable_parameters(model).items():
            p.copy_(before[name])
    assert step(rows(), 1).grad_norm == pytest.approx(reference, rel=0.05)  # unscaled again


def test_a_targeted_layer_without_gradient_is_refused_in_the_first_step(tiny_llama: LlamaForCausalLM) -> None:
    model = adapted(tiny_llama)
    layer = "layers.1.mlp.up_proj"
    for name, parameter in trainable_parameters(model).items():
        if layer in name:
            parameter.register_hook(torch.zeros_like)
    with pytest.raises(AdapterError, match=rf"1 of 14 targeted layers got no gradient.*{layer}"):
        step_on(model)(rows(), 0)


def test_a_fresh_adapter_passes_although_a_has_no_gradient_yet(tiny_llama: LlamaForCausalLM) -> None:
    model = attach_adapter(tiny_llama, AdapterConfig(rank=2), seed=0).model
    step_on(model)(rows(), 0)
    zero = [n for n, g in gradients(model).items() if not g.any()]
    assert zero
    assert all("lora_A" in name for name in zero)


def test_a_batch_without_supervised_tokens_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    sequence = TokenSequence(np.arange(6, 12), np.zeros(6, dtype=np.float32), 6)
    with pytest.raises(DataError, match=r"no supervised token in the whole batch: rows\.json:1"):
        step_on(adapted(tiny_llama))([Row((sequence,), "rows.json:1", 0.0)], 0)


def test_out_of_memory_gives_sizes_and_advice(tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tiny_llama)

    def fail(*_: object, **__: object) -> None:
        torch.empty(1 << 60)  # the real allocator's real complaint

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(ResourceError, match=r"7 rows and \d+ tokens .*max_tokens_per_micro_batch.*--resume"):
        step_on(model)(rows(), 3)
