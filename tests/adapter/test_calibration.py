"""Initialisations that look at the weights before quantisation; those of rows are tested with whole runs."""

from pathlib import Path

import pytest
import torch

from loratory.adapter import attach_adapter
from loratory.config import AdapterConfig, ModelConfig, QuantizationConfig
from loratory.errors import AdapterError
from loratory.model import LoadedModel, load_model

IDS = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(1))
NF4 = QuantizationConfig(load_in_4bit=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def load(folder: Path, quantization: QuantizationConfig | None = None) -> LoadedModel:
    return load_model(ModelConfig(model_name_or_path=str(folder), dtype="float32"), quantization=quantization)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_loftq_takes_back_more_of_the_error_the_higher_the_rank(tiny_llama_dir: Path) -> None:
    plain = logits(load(tiny_llama_dir).model)
    errors = [float((logits(load(tiny_llama_dir, NF4).model) - plain).norm())]
    for rank in (8, 16):
        section = AdapterConfig(init="loftq", rank=rank)
        base = load(tiny_llama_dir, NF4).model
        model = attach_adapter(base, section, seed=0, original_weights=tiny_llama_dir).model.eval()
        errors.append(float((logits(model) - plain).norm()))
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (AdapterConfig(init="loftq", rank=17), r"adapter\.rank: 17 is more than .*k_proj has room for; take 16"),
        (AdapterConfig(init="loftq", use_dora=True), "DoRA's magnitudes"),
    ],
)
def test_what_loftq_refuses(tiny_llama_dir: Path, section: AdapterConfig, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach_adapter(load(tiny_llama_dir, NF4).model, section, seed=0, original_weights=tiny_llama_dir)


def test_loftq_needs_the_original_weights(tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="reads the weights before quantisation from safetensors"):
        attach_adapter(load(tiny_llama_dir, NF4).model, AdapterConfig(init="loftq"), seed=0, original_weights=tmp_path)
