"""Write an adapter as plain PEFT files plus our manifest, without asking any hub.

Not atomic: the caller publishes the folder (see `loratory.run`).
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from safetensors.torch import save_file

from loratory.adapter.lora import PEFT_HEADS, SHARED_HEAD, shared_embedding
from loratory.adapter.manifest import TENSORS_FILE, write_manifest
from loratory.adapter.stack import ADAPTER, fixed_update, stacked
from loratory.errors import NumericsError


def save_adapter(
    model: PeftModel, path: Path, *, base_identity: str, template: Mapping[str, object] | None = None
) -> None:
    """Save the model's adapter.

    Files: adapter_config.json and adapter_model.safetensors as PEFT names them, and loratory_adapter.json. The same
    weights give the same bytes. An adapter begun with PiSSA or OLoRA, or trained on top of a merged one, is written
    as a plain adapter of the original base (see `loratory.adapter.stack`).

    Args:
        model: The adapted model.
        path: Folder to write into; made when missing.
        base_identity: `LoadedModel.identity` of the base.
        template: The prompt template's contract, kept in the manifest.

    Raises:
        NumericsError: A weight of the adapter is not finite; nothing is written.
    """
    config = copy.deepcopy(model.peft_config[ADAPTER])
    fields: dict[str, Any] = {}
    if isinstance(getattr(config, "target_modules", None), set | list):
        fields["target_modules"] = sorted(config.target_modules)
    if isinstance(getattr(config, "feedforward_modules", None), set | list):
        fields["feedforward_modules"] = sorted(config.feedforward_modules)
    if config.peft_type == PeftType.ADALORA:
        fields["rank_pattern"] = None  # ranks that were given up are zeros, and the file loads anywhere
    if getattr(config, "init_lora_weights", None) in ("eva", "corda", "lora_ga"):
        fields |= {"init_lora_weights": True, "eva_config": None, "corda_config": None, "lora_ga_config": None}
    tensors = adapter_tensors(model)
    if fixed_update(model):
        whole_modules = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
        tensors, stacked_fields = stacked(model, config)
        fields |= stacked_fields
        tensors |= whole_modules
    broken = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if broken:
        raise NumericsError(f"{len(broken)} adapter tensors are not finite (first: {broken[0]}); nothing was saved")
    for name, value in fields.items():
        setattr(config, name, value)
    if getattr(config, "modules_to_save", None) is not None:
        base = model.get_base_model()
        shared = set(shared_embedding(base))
        absent = {name for name in PEFT_HEADS if not hasattr(base, name)}
        names = {SHARED_HEAD if name in shared else name for name in config.modules_to_save}
        config.modules_to_save = sorted(names - absent)
    config.inference_mode = True
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / TENSORS_FILE, metadata={"format": "pt"})
    config.save_pretrained(str(path))
    write_manifest(path, base_identity=base_identity, quantization=_quantization(model), template=template)


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the keys of PEFT's file, on the CPU."""
    # "auto" would compare the vocabulary with the base's config on the hub.
    config = model.peft_config[ADAPTER]
    pattern = getattr(config, "rank_pattern", None)
    if config.peft_type == PeftType.ADALORA:
        config.rank_pattern = None
    try:
        state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    finally:
        if config.peft_type == PeftType.ADALORA:
            config.rank_pattern = pattern
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _quantization(model: PeftModel) -> str | None:
    config = getattr(model.get_base_model().config, "quantization_config", None)
    if config is None:
        return None
    if getattr(config, "load_in_4bit", False):
        return str(config.bnb_4bit_quant_type)
    return "int8" if getattr(config, "load_in_8bit", False) else None
