"""Pickled adapter weights as safetensors, through the reader that runs nothing."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from loratory.adapter.files import PICKLED_FILES, read_adapter
from loratory.adapter.manifest import CONFIG_FILE, TENSORS_FILE
from loratory.errors import AdapterError
from loratory.model.pickled import read_pickled_weights
from loratory.run.commit import publish_directory


def convert_adapter(path: Path, output: Path) -> int:
    """Write an adapter folder with safetensors from one with pickled weights.

    The adapter_config.json is copied without what PEFT would import (`auto_mapping`).

    Args:
        path: A folder with adapter_config.json and adapter_model.bin, .pt or .pth.
        output: The new folder.

    Returns:
        Tensors converted.

    Raises:
        AdapterError: There is nothing to convert.
        UnsafeError: The file is more than tensors.
        IntegrityError: It is damaged; nothing was written.
        RunError: `output` exists.
    """
    pickled = next((path / name for name in PICKLED_FILES if (path / name).is_file()), None)
    if (path / TENSORS_FILE).is_file():
        raise AdapterError(f"{path} holds {TENSORS_FILE} already; nothing to convert")
    if pickled is None:
        raise AdapterError(f"{path} holds none of {', '.join(PICKLED_FILES)}; nothing to convert")
    if not (path / CONFIG_FILE).is_file():
        raise AdapterError(f"{str(path)!r} holds no {CONFIG_FILE}, so it is not an adapter folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with read_pickled_weights(pickled, output.parent) as weights:
        tensors = _owned(weights)
    count = len(tensors)

    def write(stage: Path) -> None:
        save_file(tensors, stage / TENSORS_FILE, metadata={"format": "pt"})
        _copy_config(path / CONFIG_FILE, stage / CONFIG_FILE)
        read_adapter(stage)

    publish_directory(output, write)
    return count


def _owned(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().clone() for name, tensor in weights.items()}


def _copy_config(source: Path, target: Path) -> None:
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as fault:
        raise AdapterError(f"{source}: not valid JSON ({fault})") from fault
    if not isinstance(values, dict):
        shutil.copyfile(source, target)
        return
    values["auto_mapping"] = None
    target.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
