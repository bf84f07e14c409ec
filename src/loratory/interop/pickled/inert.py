"""The values that a pickle stands for, as plain data: names, objects and tensors that do nothing."""

from dataclasses import dataclass, field
from typing import Any

from loratory.errors import UnsafeError

# Number of bytes per element and safetensors' name, by the storage class of torch.
STORAGE_KINDS = {
    "DoubleStorage": (8, "F64"),
    "FloatStorage": (4, "F32"),
    "HalfStorage": (2, "F16"),
    "BFloat16Storage": (2, "BF16"),
    "LongStorage": (8, "I64"),
    "IntStorage": (4, "I32"),
    "ShortStorage": (2, "I16"),
    "CharStorage": (1, "I8"),
    "ByteStorage": (1, "U8"),
    "BoolStorage": (1, "BOOL"),
}
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 40


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A global that the pickle mentions; never looked up.

    Attributes:
        module: Dotted module.
        attribute: Name in it.
    """

    module: str
    attribute: str

    @property
    def dotted(self) -> str:
        """Module and name joined by a dot."""
        return f"{self.module}.{self.attribute}"


@dataclass(slots=True, eq=False)
class InertObject:
    """What would have been an instance.

    Attributes:
        name: Its class.
        args: Arguments of the constructor.
        state: What its `__setstate__` would have got.
    """

    name: Name
    args: Any = ()
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A flat run of elements in the container.

    Attributes:
        key: Its entry's name below `data/`.
        kind: Class of torch, a key of `STORAGE_KINDS`.
        num_elements: Length.
    """

    key: str
    kind: str
    num_elements: int

    @property
    def num_bytes(self) -> int:
        """Size of its entry."""
        return self.num_elements * STORAGE_KINDS[self.kind][0]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: a strided window on a storage, checked to lie inside it and not to overlap itself.

    Attributes:
        storage: Where its elements lie.
        offset: First element.
        shape: Sizes.
        stride: Steps in elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Marker:
    """A set as pickled: its elements."""

    elements: list[Any] = field(default_factory=list)


def make_view(arguments: Any, place: str) -> View:
    """Check the arguments of `torch._utils._rebuild_tensor_v2`.

    Raises:
        UnsafeError: They describe no plain tensor inside its storage.
    """
    if not isinstance(arguments, tuple) or not 6 <= len(arguments) <= 7 or not isinstance(arguments[0], Storage):
        raise UnsafeError(f"{place}: a tensor is described by the wrong arguments")
    storage, offset, shape, stride = arguments[:4]
    if not _are_sizes((offset,)) or not _are_sizes(shape) or not _are_sizes(stride) or len(shape) != len(stride):
        raise UnsafeError(f"{place}: a tensor's offset, sizes or strides are not small non-negative integers")
    extent, num_elements, covered = 0, 1, 1
    for size, step in sorted(zip(shape, stride, strict=True), key=lambda pair: pair[1]):
        num_elements *= size
        if size > 1:
            if step < covered:
                raise UnsafeError(f"{place}: a tensor of shape {shape} and strides {stride} overlaps itself")
            extent += (size - 1) * step
            covered = extent + 1
    last = offset + extent + 1 if num_elements else offset
    if num_elements > MAX_ELEMENTS or last > storage.num_elements:
        raise UnsafeError(
            f"{place}: a tensor of shape {shape} at offset {offset} reaches element {last} of storage "
            f"{storage.key!r}, which has {storage.num_elements}"
        )
    return View(storage, offset, shape, stride)


def make_storage(persistent_id: Any, place: str) -> Storage:
    """Check a persistent id of torch: ('storage', class, key, device, number of elements).

    Raises:
        UnsafeError: It is something else.
    """
    if not isinstance(persistent_id, tuple) or len(persistent_id) != 5 or persistent_id[0] != "storage":
        raise UnsafeError(f"{place}: a persistent id is not torch's description of a storage")
    _, kind, key, device, num_elements = persistent_id
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.cuda") or kind.attribute not in STORAGE_KINDS:
        raise UnsafeError(f"{place}: storage class {kind!r} is not one of {', '.join(STORAGE_KINDS)}")
    if not isinstance(key, str) or not key.isdecimal() or len(key) > 9 or not isinstance(device, str):
        raise UnsafeError(f"{place}: a storage's key or device is not what torch writes")
    if not _are_sizes((num_elements,)):
        raise UnsafeError(f"{place}: storage {key} claims {num_elements!r} elements")
    return Storage(key, kind.attribute, num_elements)


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value <= MAX_ELEMENTS for value in values)
    )
