"""Interpret a pickle's opcodes over inert values.

It is not `pickle.Unpickler` with a filter: that one calls whatever it is handed and sets state on it. Here an opcode
either makes plain data or is refused, and every growth (stack, memo, opcodes, encoded bytes) has a bound.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from loratory.errors import UnsafeError
from loratory.interop.pickled.inert import InertObject, Marker, Name, Storage, View, make_storage, make_view
from loratory.interop.pickled.names import CONTAINERS, ENCODE, REBUILDERS, is_allowed

MAX_PICKLE_BYTES = 64 << 20
MAX_OPCODES = 4_000_000
MAX_STACK = 400_000
MAX_MARKS = 1_000
MAX_KEY_PARTS = 4
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
SCALARS = (str, bytes, int, float, bool, type(None))

CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
LITERALS = frozenset({"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES"})
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Mark:
    """The stack's mark."""


MARK = _Mark()


def interpret(program: bytes) -> Any:
    """Return the value that a pickle stands for, made of plain containers, scalars and the classes of `inert`.

    Raises:
        UnsafeError: An opcode, name or size that no pickled model needs; the message gives the offset.
    """
    if len(program) > MAX_PICKLE_BYTES:
        raise UnsafeError(f"its pickle is {len(program)} bytes long; allowed are {MAX_PICKLE_BYTES}")
    return _Interpreter(len(program)).run(program)


class _Interpreter:
    """Stack, memo and budgets of one run."""

    def __init__(self, num_bytes: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encode_budget = 4 * num_bytes
        self.num_opcodes = 0
        self.place = "offset 0"
        self.actions: dict[str, Callable[[], None]] = {
            "MARK": self._mark,
            "TUPLE": lambda: self._push(tuple(self._pop_to_mark())),
            "APPEND": lambda: self._append([self._pop()]),
            "APPENDS": lambda: self._append(self._pop_to_mark()),
            "SETITEM": self._set_item,
            "SETITEMS": lambda: self._set_items(self._pop_to_mark()),
            "BINPERSID": lambda: self._push(make_storage(self._pop(), self.place)),
            "NEWOBJ": self._new_object,
            "REDUCE": self._reduce,
            "BUILD": self._build,
        }

    def run(self, program: bytes) -> Any:
        try:
            for opcode, argument, position in pickletools.genops(io.BytesIO(program)):
                self.place = f"{opcode.name} at offset {position}"
                self.num_opcodes += 1
                if opcode.name == "STOP":
                    if position != len(program) - 1:
                        raise self._refusal("bytes follow the end")
                    return self._last()
                self._step(opcode.name, argument)
                if self.num_opcodes > MAX_OPCODES or len(self.stack) > MAX_STACK or len(self.marks) > MAX_MARKS:
                    raise self._refusal("more opcodes or deeper nesting than any model has")
        except (ValueError, OverflowError, UnicodeError) as fault:
            raise UnsafeError(f"after {self.place}: its pickle is damaged or was made by hand: {fault}") from fault
        raise self._refusal("the end is missing")

    def _step(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self._push(argument)
        elif name in CONSTANTS:
            self._push(CONSTANTS[name]())
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise self._refusal(f"memo {argument} was never written")
            self._push(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            # A real unpickler allocates a table up to the index: a few bytes could ask for gigabytes.
            if argument > self.num_opcodes:
                raise self._refusal(f"memo index {argument} is larger than the number of opcodes so far")
            self.memo[argument] = self._last()
        elif name in TUPLES:
            values = [self._pop() for _ in range(TUPLES[name])]
            self._push(tuple(reversed(values)))
        elif name == "GLOBAL":
            self._push(self._name(argument))
        elif name in self.actions:
            self.actions[name]()
        elif name == "PROTO":
            if argument not in (2, 3):
                raise self._refusal(f"protocol {argument}; torch.save writes protocol 2")
        else:
            raise self._refusal("torch.save writes no such opcode")

    def _name(self, argument: str) -> Name:
        module, _, attribute = argument.partition(" ")
        if not is_allowed(module, attribute):
            raise self._refusal(f"the file names {module}.{attribute}, which is no part of a model")
        return Name(module, attribute)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self._refusal("what is called is not a name with arguments")
        self._push(self._call(function, arguments))

    def _call(self, function: Name, arguments: tuple[Any, ...]) -> Any:
        name = function.dotted
        if name == REBUILD_TENSOR:
            return make_view(arguments, self.place)
        if name == REBUILD_FROM_TYPE:
            if len(arguments) != 4 or not isinstance(arguments[0], Name) or not isinstance(arguments[2], tuple):
                raise self._refusal("a tensor is described by the wrong arguments")
            if arguments[0].dotted not in REBUILDERS - {REBUILD_FROM_TYPE}:
                raise self._refusal(f"a tensor would be made by {arguments[0].dotted}")
            return self._call(arguments[0], arguments[2])
        if name in REBUILDERS:
            if not arguments or not isinstance(arguments[0], View):
                raise self._refusal("a parameter holds no tensor")
            return arguments[0]
        if name in CONTAINERS:
            return self._container(name, arguments)
        if name == ENCODE:
            return self._encoded(arguments)
        return InertObject(function, arguments)

    def _container(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "collections.OrderedDict":
            if arguments not in ((), ([],)):
                raise self._refusal("an OrderedDict is not made empty")
            return {}
        if len(arguments) != 1 or not isinstance(arguments[0], list):
            raise self._refusal("a set is not made from a list")
        return Marker(arguments[0])

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes:
        if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
            raise self._refusal("bytes are not written as Latin-1 text")
        self.encode_budget -= len(arguments[0])
        if self.encode_budget < 0:
            raise self._refusal("more bytes are written than the file can hold")
        return arguments[0].encode("latin1")

    def _new_object(self) -> None:
        arguments, cls = self._pop(), self._pop()
        if not isinstance(cls, Name) or not isinstance(arguments, tuple):
            raise self._refusal("an object is made of something that is no class")
        if cls.dotted in REBUILDERS | CONTAINERS | {ENCODE}:
            raise self._refusal(f"{cls.dotted} is no class of a model")
        self._push(InertObject(cls, arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._last()
        if isinstance(target, InertObject):
            if target.state is not None:
                raise self._refusal("an object gets its state twice")
            target.state = state
        elif not isinstance(target, dict):
            raise self._refusal(f"state is set on a {type(target).__name__}")

    def _append(self, values: list[Any]) -> None:
        target = self._last()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, InertObject):
            raise self._refusal(f"items are added to a {type(target).__name__}")

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_items(self, values: list[Any]) -> None:
        target = self._last()
        if not isinstance(target, dict | InertObject) or len(values) % 2:
            raise self._refusal(f"keys are set on a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not _is_plain_key(key):
                raise self._refusal(f"a {type(key).__name__} is used as a key")
            if isinstance(target, dict):
                target[key] = value

    def _mark(self) -> None:
        self.marks.append(len(self.stack))
        self.stack.append(MARK)

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _last(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise self._refusal("the stack is empty")
        return self.stack[-1]

    def _pop(self) -> Any:
        value = self._last()
        self.stack.pop()
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self._refusal("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _refusal(self, reason: str) -> UnsafeError:
        return UnsafeError(f"{self.place}: {reason}")


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return len(key) <= MAX_KEY_PARTS and all(isinstance(part, SCALARS) for part in key)
    return isinstance(key, SCALARS) and not isinstance(key, Storage)
