"""Random adapters of a base folder, saved as loratory saves them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model

from loratory.adapter.lora import quiet_peft
from loratory.adapter.save import save_adapter
from loratory.config import ModelConfig
from loratory.model import load_model


def randomise(model: torch.nn.Module, scale: float, seed: int = 3) -> None:
    """Give everything the adapter trains values that matter."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=source) * scale
                parameter.copy_(noise if "lora_" in name and "magnitude" not in name else parameter + noise)


def write_adapter(
    base: Path, folder: Path, *, seed: int = 3, scale: float = 0.3, has_manifest: bool = True, **options: Any
) -> Path:
    """A random LoRA adapter of the base; without a manifest it looks as PEFT would have left it."""
    loaded = load_model(ModelConfig(model_name_or_path=str(base), dtype="float32"))
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options}
    with quiet_peft():
        model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", **options))
    randomise(model, scale, seed)
    save_adapter(model, folder, base_identity=loaded.identity)
    if not has_manifest:
        (folder / "loratory_adapter.json").unlink()
    return folder


def adapted(base: Path, config: PeftConfig, *, scale: float = 0.1) -> Any:
    """The base with a random adapter of any method, in memory."""
    loaded = load_model(ModelConfig(model_name_or_path=str(base), dtype="float32"))
    torch.manual_seed(0)
    with quiet_peft():
        model = get_peft_model(loaded.model, config)
    randomise(model, scale)
    return model.eval()
