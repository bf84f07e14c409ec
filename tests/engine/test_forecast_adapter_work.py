"""What adapters compute besides thin products, against sums by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.engine.forecast.adapter_work import THIN_ONLY, AdapterWork, adapter_work, thin_flops
from loratory.engine.forecast.model_size import ModelSize, model_size
from loratory.model.empty_model import empty_model


@pytest.fixture
def work_of(tiny_model_dir: Callable[[str], Path]) -> Callable[[AdapterConfig], tuple[AdapterWork, ModelSize]]:
    def find(section: AdapterConfig) -> tuple[AdapterWork, ModelSize]:
        folder = str(tiny_model_dir("llama"))
        model = empty_model(ModelConfig(model_name_or_path=folder), device=torch.device("cpu")).model
        with torch.device("meta"):
            adapted = attach_adapter(model, section, seed=0).model.train()
        size = model_size(adapted)
        return adapter_work(adapted, size), size

    return find


def test_plain_lora_and_full_fine_tuning_have_none(
    work_of: Callable[[AdapterConfig], tuple[AdapterWork, ModelSize]],
) -> None:
    assert work_of(AdapterConfig(rank=4))[0] == THIN_ONLY
    assert work_of(AdapterConfig(method="full"))[0] == THIN_ONLY


def test_loha_multiplies_rows_by_a_whole_weight(
    work_of: Callable[[AdapterConfig], tuple[AdapterWork, ModelSize]],
) -> None:
    found, size = work_of(AdapterConfig(method="loha", options={"r": 2}))
    # A product with the difference, and its two gradients; the first layer's q, k, v need none of their input.
    products = sum(6 * layer.inputs * layer.outputs for layer in size.linears)
    spared = sum(4 * layer.inputs * layer.outputs for layer in size.linears if layer.layer == 0 and layer.feeds_keys)
    thin = sum(thin_flops(layer) for layer in size.linears)
    assert found.flops_per_token == pytest.approx(products - spared - thin, rel=0.02)
    # Two products of thin matrices in the forward pass; their gradients are four more, and each is made twice.
    built = sum(2 * 2 * 2 * layer.inputs * layer.outputs for layer in size.linears)
    assert 2 * built < found.flops_per_pass < 6 * built
    assert found.moved_per_pass > 4 * sum(layer.inputs * layer.outputs for layer in size.linears)


def test_dora_norms_a_whole_weight_in_every_pass(
    work_of: Callable[[AdapterConfig], tuple[AdapterWork, ModelSize]],
) -> None:
    found, size = work_of(AdapterConfig(rank=2, use_dora=True))
    assert found.flops_per_token == 0.0
    # The updated weight's norm: the product of the thin matrices, without a gradient.
    built = sum(2 * 2 * layer.inputs * (layer.inputs + layer.outputs) for layer in size.linears)
    assert found.flops_per_pass == pytest.approx(built, rel=0.02)
    assert found.flops(0) == 0.0
    assert found.flops(10) == found.flops_per_pass
