"""Hostile and damaged pickles: refused with reason and offset, nothing run, nothing large allocated."""

import collections
import io
import pickle
import random
import struct
import time
import tracemalloc
from typing import Any

import pytest
import torch

from loratory.errors import UnsafeError
from loratory.interop.pickled.inert import InertObject, Storage, View, make_view
from loratory.interop.pickled.interpreter import interpret


def call(module: str, name: str) -> bytes:
    """A pickle that calls a global with one text."""
    return f"\x80\x02c{module}\n{name}\nX\x04\x00\x00\x00trueq\x00\x85q\x01Rq\x02.".encode("latin1")


@pytest.mark.parametrize(
    "name",
    [
        "os system", "posix system", "builtins eval", "__builtin__ exec", "builtins getattr", "builtins __import__",
        "importlib import_module", "operator attrgetter", "pip main", "pkgutil resolve_name", "numpy load",
        "torch.hub load", "torch load", "torch.serialization load", "torch.jit load", "transformers pipeline",
        "transformers.pipelines pipeline", "transformers.dynamic_module_utils get_class_from_dynamic_module",
        "subprocess Popen", "runpy run_path", "codecs decode", "_codecs decode", "torch.utils.cpp_extension load",
        "torch.nn.modules os", "LLMPruner.utils.logger x", "torch.nn.modules.linear.os system",
        "loratory.model.load load_model", "peft.peft_model PeftModel",
    ],
)  # fmt: skip
def test_foreign_names_are_refused_with_offset(name: str) -> None:
    module, _, attribute = name.partition(" ")
    if module == "torch.nn.modules":
        module = "torch.nn.modules.x.y"
    with pytest.raises(UnsafeError, match=r"GLOBAL at offset 2: the file names ") as refused:
        interpret(call(module, attribute))
    assert f"{module}.{attribute}" in str(refused.value)


def test_allowed_names_are_never_looked_up() -> None:
    """The name does not even exist; a reader that imports it would fail."""
    found = interpret(call("transformers.models.llama.no_such_module", "NoSuchClass"))
    assert isinstance(found, InertObject)
    assert found.name.dotted == "transformers.models.llama.no_such_module.NoSuchClass"
    assert found.args == ("true",)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "protocol 4"),
        (b"\x80\x02X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "STACK_GLOBAL at offset"),
        (b"\x80\x02\x82\x01.", "EXT1 at offset"),
        (b"\x80\x02(ios\nsystem\n.", "INST at offset"),
        (b"\x80\x02(X\x01\x00\x00\x00ao.", "OBJ at offset"),
        (b"\x80\x02Pabc\n.", "PERSID at offset"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged|LONG4"),
        (b"\x80\x02Nr\x00\xe1\xf5\x05.", "memo index 100000000"),
        (b"\x80\x02Nr\xf0\xff\xff\xff.", "memo index 4294967280"),
        (b"\x80\x02Np100000000\n.", "PUT at offset"),
        (b"\x80\x02h\x05.", "memo 5 was never written"),
        (b"\x80\x02.", "stack is empty"),
        (b"\x80\x02R.", "stack is empty"),
        (b"\x80\x02NN\x81.", "no class"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "not a name"),
        (b"\x80\x02]}b.", "state is set on a list"),
        (b"\x80\x02cbuiltins\nset\n}b.", "state is set on a Name"),
        (b"\x80\x02}]Ns.", "list is used as a key"),
        (b"\x80\x02N", "end is missing|damaged|STOP"),
        (b"\x80\x02N.N", "bytes follow"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00rot\x86R.", "Latin-1"),
        (b"", "damaged|end is missing"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_opcodes_that_no_model_needs(program: bytes, words: str) -> None:
    with pytest.raises(UnsafeError, match=words):
        interpret(program)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"N0" * 5_000_000 + b".",
        b"\x80\x02N" + b"\x85" * 5_000_000 + b".",
    ],
)
def test_bombs_end_soon_and_small(program: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(UnsafeError):
        interpret(program)
    assert time.monotonic() - start < 60


def test_encoded_bytes_have_a_budget() -> None:
    """One text, encoded over and over by way of the memo, would fill the memory."""
    text = b"a" * 100_000
    head = (
        b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1\x86q\x01"
    )
    tracemalloc.start()
    with pytest.raises(UnsafeError, match="more bytes are written"):
        interpret(head + b"]" + b"h\x00h\x01Ra" * 10_000 + b".")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, (4, 4), (4, 1)), None),
        ((4, (3, 4), (4, 1)), None),
        ((0, (0, 4), (4, 1)), None),
        ((1, (4, 4), (4, 1)), "reaches element 17"),
        ((0, (4, 5), (4, 1)), "overlaps"),
        ((0, (16, 16), (0, 1)), "overlaps"),
        ((0, (4, 4), (4, -1)), "non-negative"),
        ((-1, (4, 4), (4, 1)), "non-negative"),
        ((0, (1 << 50, 1), (1, 1)), "non-negative"),
        ((0, (4,), (4, 1)), "non-negative"),
        ((True, (4, 4), (4, 1)), "non-negative"),
        ((0, [4, 4], (4, 1)), "non-negative"),
    ],
)
def test_tensors_lie_inside_their_storage(arguments: Any, words: str | None) -> None:
    storage = Storage("0", "FloatStorage", 16)
    if words is None:
        assert make_view((storage, *arguments, False, {}), "x").shape == arguments[1]
        return
    with pytest.raises(UnsafeError, match=words):
        make_view((storage, *arguments, False, {}), "x")


def test_plain_data_is_what_pickle_reads() -> None:
    value = {
        "a": [1, -2, 3.5, None, True, (1, "x", ()), {"k": [b"\x00\xff"]}, 1 << 80],
        "od": collections.OrderedDict(x=1, y=2),
        "key": {("a", "b"): 1},
    }
    assert interpret(pickle.dumps(value, protocol=2)) == value


def test_a_tensor_is_a_description() -> None:
    stream = io.BytesIO()
    torch.save(torch.arange(6.0).reshape(2, 3), stream)
    import zipfile

    with zipfile.ZipFile(stream) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    found = interpret(program)
    assert isinstance(found, View)
    assert (found.shape, found.stride, found.storage.num_elements) == ((2, 3), (3, 1), 6)


def test_random_damage_never_escapes() -> None:
    """Whatever bytes change, the result is inert data or our refusal."""
    program = pickle.dumps({"a": [1, 2.5, "text" * 20, (b"x", None)], "b": collections.OrderedDict(x=[1])}, protocol=2)
    generator = random.Random(0)
    refused = 0
    for _ in range(1500):
        changed = bytearray(program)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        try:
            interpret(bytes(changed))
        except UnsafeError:
            refused += 1
    assert 300 < refused < 1500
