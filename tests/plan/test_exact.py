"""Trained numbers and files are forecast to the byte: over families and methods, against what training writes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratory.adapter import attach_adapter
from loratory.adapter.save import save_adapter
from loratory.config import AdapterConfig, ModelConfig, QuantizationConfig, TrainConfig
from loratory.engine.forecast.disk import disk_sizes, safetensors_bytes
from loratory.engine.forecast.model_size import model_size, quantised_bytes
from loratory.engine.optimizer import make_optimizer, trainable_parameters
from loratory.engine.state import save_optimizer, save_weights
from loratory.model import load_model
from loratory.model.empty_model import empty_model

CPU = torch.device("cpu")
SECTIONS = {
    "lora": AdapterConfig(rank=4),
    "patterns": AdapterConfig(rank=2, rank_pattern={"q_proj": 6}),
    "dora": AdapterConfig(rank=3, use_dora=True),
    "full": AdapterConfig(method="full"),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, "lora") for family in ("llama", "qwen2", "qwen3", "gemma", "mistral", "phi", "gpt2", "gpt_neox", "bloom")]
    + [("llama", kind) for kind in SECTIONS if kind != "lora"]
    + [("qwen2", "full"), ("gpt2", "full")],
)
def test_counts_and_files(family: str, kind: str, tiny_model_dir: Callable[[str], Path], tmp_path: Path) -> None:
    section = SECTIONS[kind]
    names = ModelConfig(model_name_or_path=str(tiny_model_dir(family)))
    with torch.device("meta"):
        planned = attach_adapter(empty_model(names, device=CPU).model, section, seed=0)
    loaded = load_model(names, device="cpu")
    trained = attach_adapter(loaded.model, section, seed=0)
    assert (planned.report.trainable, planned.report.total) == (trained.report.trainable, trained.report.total)
    forecast = disk_sizes(planned.model, optimizer="adamw")
    assert forecast.is_exact
    parameters = trainable_parameters(trained.model)
    save_weights(tmp_path / "trainable.safetensors", parameters)
    assert forecast.trainable == (tmp_path / "trainable.safetensors").stat().st_size
    optimizer = make_optimizer(parameters, TrainConfig())
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.optimizer.step()
    save_optimizer(tmp_path, optimizer)
    assert forecast.optimizer == (tmp_path / "optimizer.safetensors").stat().st_size
    if kind == "full":
        trained.model.save_pretrained(tmp_path / "model")
        assert forecast.final == (tmp_path / "model" / "model.safetensors").stat().st_size
    else:
        save_adapter(trained.model, tmp_path / "adapter", base_identity="x")  # type: ignore[arg-type]
        assert forecast.final == (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size


def test_sizes_of_a_file_with_unequal_formats(tmp_path: Path) -> None:
    tensors = {
        "b": torch.zeros(3, dtype=torch.bfloat16),
        "a": torch.zeros(2, 5),
        "scalar": torch.zeros(()),
        "ü": torch.zeros(7, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    described = {name: (list(t.shape), t.dtype) for name, t in tensors.items()}
    assert safetensors_bytes(described, metadata={"format": "pt"}) == (tmp_path / "x.safetensors").stat().st_size


def test_quantised_weights_by_hand() -> None:
    # 128 x 64 weights: half a byte each, and a float32 scale for each 64.
    assert quantised_bytes(128, 64, QuantizationConfig(load_in_4bit=True)) == 4096 + 4 * 128 + 64
    assert quantised_bytes(128, 64, QuantizationConfig(load_in_8bit=True)) == 8192 + 4 * 64


def test_quantising_moves_bytes_of_linear_layers_only(tiny_llama_dir: Path) -> None:
    model = empty_model(ModelConfig(model_name_or_path=str(tiny_llama_dir)), device=CPU).model.requires_grad_(False)
    plain, packed = model_size(model), model_size(model, quantization=QuantizationConfig(load_in_4bit=True))
    assert plain.total == packed.total
    linear = sum(each.inputs * each.outputs for each in plain.linears)
    assert plain.plain_bytes - packed.plain_bytes == 4 * linear
    assert 0.5 * linear < packed.quantised_bytes < 0.7 * linear


def test_the_config_is_enough(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no-weights"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_llama_dir / "config.json").read_text())
    model = empty_model(ModelConfig(model_name_or_path=str(folder)), device=CPU).model
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 32
