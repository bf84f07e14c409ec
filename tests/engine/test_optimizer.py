import pytest
import torch
from transformers import LlamaForCausalLM

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, TrainConfig
from loratory.engine.optimizer import make_optimizer, parameter_groups, peak_rate, trainable_parameters
from loratory.errors import AdapterError


def named(name: str, *shape: int) -> tuple[str, torch.Tensor]:
    return name, torch.zeros(*shape)


def test_loraplus_rates() -> None:
    section = TrainConfig(learning_rate=1e-4, loraplus_lr_ratio=16, loraplus_lr_embedding=1e-6)
    assert peak_rate(*named("q.lora_A.default.weight", 4, 8), section) == 1e-4
    assert peak_rate(*named("q.lora_B.default.weight", 8, 4), section) == pytest.approx(1.6e-3)
    assert peak_rate(*named("q.lora_magnitude_vector.default.weight", 8), section) == pytest.approx(1.6e-3)
    assert peak_rate(*named("embed.lora_embedding_B.default", 8, 4), section) == 1e-6
    assert peak_rate(*named("embed.lora_embedding_A.default", 4, 8), section) == 1e-4


def test_without_a_ratio_all_rates_are_equal() -> None:
    section = TrainConfig(learning_rate=1e-4)
    for name in ("q.lora_B.default.weight", "embed.lora_embedding_B.default", "norm.weight"):
        assert peak_rate(*named(name, 3), section) == 1e-4


def test_biases_and_norms_do_not_decay() -> None:
    parameters = {n: torch.nn.Parameter(torch.zeros(*s)) for n, s in {"w": (2, 2), "b": (2,), "norm": (2,)}.items()}
    groups = {
        tuple(names): group["weight_decay"]
        for group, names in parameter_groups(parameters, TrainConfig(weight_decay=0.1))
    }
    assert groups == {("w",): 0.1, ("b", "norm"): 0.0}


def test_rate_follows_the_factor_in_each_group(tiny_llama: LlamaForCausalLM) -> None:
    model = attach_adapter(tiny_llama, AdapterConfig(rank=2, targets=["q_proj"]), seed=0).model
    optimizer = make_optimizer(trainable_parameters(model), TrainConfig(learning_rate=0.1, loraplus_lr_ratio=4))
    assert set(optimizer.names) == set(trainable_parameters(model))
    optimizer.set_rate(0.5)
    optimizer.set_rate(0.25)
    assert sorted(group["lr"] for group in optimizer.optimizer.param_groups) == pytest.approx([0.025, 0.1])


def test_one_adamw_step_by_hand() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 2.0)
    optimizer = make_optimizer(trainable_parameters(layer), TrainConfig(learning_rate=0.1, weight_decay=0.5))
    optimizer.set_rate(1.0)
    layer.weight.grad = torch.tensor([[3.0]])
    optimizer.optimizer.step()
    # Decay: 2 * (1 - 0.1 * 0.5) = 1.9; then the bias-corrected first step has size lr.
    assert float(layer.weight.detach()) == pytest.approx(1.9 - 0.1, abs=1e-6)


def test_nothing_trainable() -> None:
    layer = torch.nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(AdapterError, match="nothing is trainable"):
        make_optimizer(trainable_parameters(layer), TrainConfig())
