"""Models and adapters whose answers are long and differ, and a server of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loratory.adapter import attach_adapter, save_adapter
from loratory.config import AdapterConfig, ModelConfig
from loratory.model import load_model
from small_server import Running, open_small, running


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory: model folder and seed -> folder of an adapter with strong random weights."""

    def make(base: Path, seed: int, rank: int = 4) -> Path:
        loaded = load_model(ModelConfig(model_name_or_path=str(base)))
        section = AdapterConfig(rank=rank, alpha=2 * rank, dropout=0.0)
        model = attach_adapter(loaded.model, section, seed=seed).model
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.5, generator=generator)
        folder = tmp_path_factory.mktemp("adapter")
        save_adapter(model, folder, base_identity=loaded.identity)
        return folder

    return make


@pytest.fixture(scope="session")
def sharp_dir(tiny_model_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A factory: family -> its tiny model with larger weights, whose answers are long and differ."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            source = tiny_model_dir(family)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.data *= 8.0 if "embed" not in name and "lm_head" not in name else 3.0
            folder = tmp_path_factory.mktemp(f"sharp-{family}")
            for file in source.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            model.save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def adapters(sharp_dir: Callable[[str], Path], make_adapter: Callable[..., Path]) -> dict[str, Path]:
    """Two adapters of the sharp Llama, of different rank."""
    return {"red": make_adapter(sharp_dir("llama"), 1), "blue": make_adapter(sharp_dir("llama"), 2, rank=8)}


@pytest.fixture(scope="session")
def server(sharp_dir: Callable[[str], Path], adapters: dict[str, Path]) -> Iterator[Running]:
    """The sharp Llama with its two adapters behind a socket."""
    with running(open_small(sharp_dir("llama"), adapters)) as started:
        yield started
