"""Extract a pickled model into a folder of safetensors and JSON: the work of the limited process.

Storages are copied byte by byte as flat tensors; which windows of them are which weight stands in the description.
Whoever reads the folder trusts neither.
"""

import json
import struct
from pathlib import Path
from typing import Any

from loratory.errors import IntegrityError, ModelError
from loratory.interop.pickled.container import Container
from loratory.interop.pickled.inert import STORAGE_KINDS, InertObject, Storage, View
from loratory.interop.pickled.interpreter import interpret
from loratory.interop.pickled.modules import ModuleTree, plain_config, walk_modules
from loratory.interop.pickled.tokenizer import write_tokenizer

STORAGES_FILE = "storages.safetensors"
DESCRIPTION_FILE = "description.json"
REFUSAL_FILE = "refusal.json"


def extract(path: Path, folder: Path) -> None:
    """Write `storages.safetensors`, `description.json` and tokenizer files for a pickled model.

    Args:
        path: The file: `torch.save` of a module, or of a dict with one under 'model' and a tokenizer under
            'tokenizer'.
        folder: An existing, empty folder.

    Raises:
        UnsafeError: The file is more than a model, or made to exhaust the reader.
        IntegrityError: It is damaged.
        ModelError: It holds something else than a whole model.
    """
    with Container(path) as container:
        value = interpret(container.program())
        model, tokenizer = _parts(value)
        tree = walk_modules(model)
        config = model.state.get("config")
        if not isinstance(config, InertObject):
            raise IntegrityError(f"the model ({model.name.dotted}) has no config, so its architecture is unknown")
        storages = _storages(tree)
        _write_storages(container, storages, folder / STORAGES_FILE)
    description = {
        "class": model.name.dotted,
        "config_class": config.name.dotted,
        "config": plain_config(config.state),
        "classes": tree.classes,
        "attributes": tree.attributes,
        "tensors": {name: _window(view) for name, view in tree.tensors.items()},
        "tokenizer_class": tokenizer.name.dotted if isinstance(tokenizer, InertObject) else None,
        "tokenizer_files": write_tokenizer(tokenizer, folder),
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, allow_nan=False), encoding="utf-8")


def extract_weights(path: Path, folder: Path) -> None:
    """Write `storages.safetensors` and `description.json` for a pickled dict of tensors, such as an adapter's weights.

    Args:
        path: The file: `torch.save` of a dict of tensors.
        folder: An existing, empty folder.

    Raises:
        UnsafeError: The file is more than tensors, or made to exhaust the reader.
        IntegrityError: It is damaged.
        ModelError: It holds something else than a dict of tensors.
    """
    with Container(path) as container:
        value = interpret(container.program())
        tree = ModuleTree()
        if not isinstance(value, dict) or not value:
            raise ModelError(f"it holds a {type(value).__name__}, not a dict of tensors")
        for name, view in value.items():
            if not isinstance(name, str) or not isinstance(view, View):
                raise ModelError(f"entry {str(name)[:80]!r} is no tensor; a plain dict of tensors is needed")
            tree.tensors[name] = view
        _write_storages(container, _storages(tree), folder / STORAGES_FILE)
    description = {"tensors": {name: _window(view) for name, view in tree.tensors.items()}}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, allow_nan=False), encoding="utf-8")


def _parts(value: Any) -> tuple[InertObject, Any]:
    model, tokenizer = value, None
    if isinstance(value, dict) and "model" in value:
        model, tokenizer = value["model"], value.get("tokenizer")
    if isinstance(model, dict):
        kinds = "plain weights" if any(isinstance(item, View) for item in model.values()) else "a dict without a model"
        raise ModelError(
            f"it holds {kinds} and no whole model, so the architecture is unknown. "
            "Give the folder with its config.json instead"
        )
    if not isinstance(model, InertObject):
        raise ModelError(f"it holds a {type(model).__name__}, not a model")
    return model, tokenizer


def _storages(tree: ModuleTree) -> list[Storage]:
    found: dict[str, Storage] = {}
    for name, view in tree.tensors.items():
        known = found.setdefault(view.storage.key, view.storage)
        if (known.kind, known.num_elements) != (view.storage.kind, view.storage.num_elements):
            raise IntegrityError(f"{name}: storage {known.key} is described in two ways")
    return list(found.values())


def _write_storages(container: Container, storages: list[Storage], path: Path) -> None:
    """Write the safetensors format (8 bytes of header length, JSON header, data), one chunk in memory at a time."""
    header: dict[str, Any] = {}
    end = 0
    for storage in storages:
        start, end = end, end + storage.num_bytes
        header[storage.key] = {
            "dtype": STORAGE_KINDS[storage.kind][1],
            "shape": [storage.num_elements],
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for storage in storages:
            for chunk in container.storage_chunks(storage):
                file.write(chunk)


def _window(view: View) -> dict[str, Any]:
    return {"storage": view.storage.key, "offset": view.offset, "shape": view.shape, "stride": view.stride}
