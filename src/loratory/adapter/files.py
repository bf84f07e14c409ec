"""What an adapter folder holds, checked without its base. Only safetensors are read."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from loratory.adapter.manifest import TENSORS_FILE, AdapterManifest, read_manifest, verify_manifest
from loratory.adapter.peft_file import LoraFile, read_lora_file
from loratory.errors import AdapterError, IntegrityError, UnsafeError

PICKLED_FILES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFiles:
    """The content of an adapter folder, checked as far as it can be without a base.

    Attributes:
        path: The folder.
        config: Its adapter_config.json.
        tensors: Its tensors by PEFT's keys.
        manifest: Its manifest, or None when it was made elsewhere.
        warnings: What could not be verified.
    """

    path: Path
    config: LoraFile
    tensors: dict[str, torch.Tensor]
    manifest: AdapterManifest | None
    warnings: tuple[str, ...]


def read_adapter(path: Path, *, base_identity: str | None = None) -> AdapterFiles:
    """Read an adapter folder without a model.

    Args:
        path: The folder with adapter_config.json.
        base_identity: Identity of the base it is meant for; None leaves the base unchecked.

    Raises:
        AdapterError: Not an adapter folder, or a kind that cannot be loaded.
        UnsafeError: Its weights are pickled.
        IntegrityError: Changed after saving, of another base, unreadable, empty or not finite.
    """
    config = read_lora_file(path)
    file = path / TENSORS_FILE
    if not file.is_file():
        pickled = [name for name in PICKLED_FILES if (path / name).is_file()]
        if pickled:
            raise UnsafeError(
                f"{path / pickled[0]}: pickled adapter weights can run code when they are read and are refused. "
                f"Convert them to {TENSORS_FILE} where you trust them"
            )
        raise AdapterError(f"{path} holds no {TENSORS_FILE}")
    warnings: tuple[str, ...] = ()
    manifest = read_manifest(path)
    if manifest is not None:
        verify_manifest(path, manifest, base_identity)
    elif base_identity is not None:
        named = f" (it names {config.base_name!r})" if config.base_name else ""
        warnings = (f"adapter {path} has no manifest: nothing proves that it was trained on this base{named}",)
    tensors = _read_tensors(file, has_indices=config.method != "lora")
    return AdapterFiles(path=path, config=config, tensors=tensors, manifest=manifest, warnings=warnings)


def _read_tensors(file: Path, *, has_indices: bool) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as fault:
        raise IntegrityError(f"{file}: not readable as safetensors ({fault})") from fault
    if not tensors:
        raise IntegrityError(f"{file} holds no tensors: the adapter is empty")
    for name, tensor in tensors.items():
        if has_indices and tensor.dtype in (torch.int32, torch.int64):
            continue
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise IntegrityError(f"{file}: tensor {name!r} holds values that are not finite numbers")
    return tensors
