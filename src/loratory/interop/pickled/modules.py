"""Walk an inert torch module: its tensors by name, and the plain attributes of each submodule."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loratory.errors import IntegrityError, UnsafeError
from loratory.interop.pickled.inert import InertObject, Marker, View

MAX_DEPTH = 12
MAX_MODULES = 100_000
MAX_TEXT = 4096
MAX_CONFIG_DEPTH = 4
MAX_CONFIG_NODES = 20_000
PART = re.compile(r"\w{1,100}")


@dataclass(slots=True)
class ModuleTree:
    """What a pickled module holds.

    Attributes:
        tensors: Parameters and kept buffers by dotted name.
        classes: Class name of each submodule by dotted path; "" is the root.
        attributes: Plain attributes (numbers, truth values, short texts) of each submodule by dotted path.
    """

    tensors: dict[str, View] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, int | float | str]] = field(default_factory=dict)


def walk_modules(root: InertObject) -> ModuleTree:
    """List what a module holds.

    Raises:
        UnsafeError: Nested too deep, too many parts, or a part's name is no identifier.
        IntegrityError: A part is not a module.
    """
    tree = ModuleTree()
    for path, module in _submodules(root, "", 0, [0]):
        state = module.state
        prefix = f"{path}." if path else ""
        tree.classes[path] = module.name.dotted
        tree.attributes[path] = {
            key: value for key, value in state.items() if isinstance(key, str) and _is_plain(value) and len(key) < 100
        }
        dropped = state.get("_non_persistent_buffers_set")
        skipped = {name for name in dropped.elements if isinstance(name, str)} if isinstance(dropped, Marker) else set()
        for kind in ("_parameters", "_buffers"):
            for name, value in _part(state, kind, path).items():
                if not isinstance(name, str) or not PART.fullmatch(name):
                    raise UnsafeError(f"tensor name {name!r} in {path or 'the model'} is no identifier")
                if isinstance(value, View) and (name not in skipped or name == "inv_freq"):
                    tree.tensors[prefix + name] = value
    return tree


def plain_config(value: Any) -> dict[str, Any]:
    """The numbers, texts, lists and tables of a config object as JSON values; everything else is left out.

    Raises:
        UnsafeError: It is larger than a config.
    """
    found = _plain(value, 0, [0])
    return found if isinstance(found, dict) else {}


def _submodules(module: InertObject, path: str, depth: int, count: list[int]) -> Iterator[tuple[str, InertObject]]:
    count[0] += 1
    if depth > MAX_DEPTH or count[0] > MAX_MODULES:
        raise UnsafeError(f"{path or 'the model'}: modules are nested deeper or more numerous than in any model")
    if not isinstance(module.state, dict):
        raise IntegrityError(f"{path or 'the model'} ({module.name.dotted}) has no state: it is not a pickled module")
    yield path, module
    for name, child in _part(module.state, "_modules", path).items():
        if not isinstance(name, str) or not PART.fullmatch(name):
            raise UnsafeError(f"module name {name!r} in {path or 'the model'} is no identifier")
        if child is None:
            continue
        inner = f"{path}.{name}" if path else name
        if not isinstance(child, InertObject):
            raise IntegrityError(f"{inner} is a {type(child).__name__}, not a module")
        yield from _submodules(child, inner, depth + 1, count)


def _part(state: dict[Any, Any], kind: str, path: str) -> dict[Any, Any]:
    part = state.get(kind, {})
    if not isinstance(part, dict):
        raise IntegrityError(f"{kind} of {path or 'the model'} is a {type(part).__name__}, not a table")
    return part


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 62)


def _plain(value: Any, depth: int, count: list[int]) -> Any:
    count[0] += 1
    if count[0] > MAX_CONFIG_NODES:
        raise UnsafeError("its config is larger than any model's")
    if value is None or _is_plain(value):
        return value
    if depth > MAX_CONFIG_DEPTH:
        return None
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1, count) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1, count) for key, item in value.items() if isinstance(key, str)}
    return None
