"""An interpreter of pickle opcodes that builds plain data and calls nothing.

Everything is treated as data: a name becomes a `GlobalRef`, and a call becomes what `allowlist.evaluate_call` defines
for it. The time and memory that a file can make this consume are bounded by the file's size and by the limits below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .allowlist import evaluate_call, resolve_global, resolve_persistent_id
from .records import Record, StorageRef, check_key

# For comparison: the pickle of the largest YOLOv8 checkpoint has 66,000 opcodes in 160 kB; with an optimizer's state it
# has 1.5 times as many.
MAX_BYTES = 32 << 20
MAX_STEPS = 2_000_000
_MAX_STRING_BYTES = 1 << 20  # of a single string or bytes object
_MAX_LINE_BYTES = 256  # of a line that holds a name


class _Mark:
    """The object that the opcode MARK pushes on the stack."""


_MARK = _Mark()
_STOP = object()


class PickleInterpreter:
    """Runs the consecutive pickles in `data`. Raises ValueError for anything but pickles of plain data.

    storages: those that the pickles have referred to, by key.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._steps = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    @property
    def position(self) -> int:
        """Offset in `data` where the next pickle would begin."""
        return self._position

    def run(self) -> Any:
        """Interpret the pickle at the current position and return its value."""
        self._stack, self._memo = [], {}
        while True:
            code = self._read_bytes(1)[0]
            self._count_steps(1)
            action = _ACTIONS.get(code)
            if action is None:
                raise ValueError(f"it has the opcode {bytes([code])!r}, which PyTorch doesn't write")
            if action(self) is _STOP:
                result = self._pop()
                if self._stack:
                    raise ValueError("values are left on its stack")
                return result

    def _count_steps(self, steps: int) -> None:
        """Count steps. ValueError above the limit."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ValueError(f"reading it takes more than {MAX_STEPS:,} steps")

    # --- reading ---

    def _read_bytes(self, count: int) -> bytes:
        """Read `count` bytes."""
        end = self._position + count
        if end > len(self._data):
            raise ValueError("it is truncated")
        part = self._data[self._position : end]
        self._position = end
        return part

    def _read_number(self, layout: str) -> Any:
        """Read a number in a `struct` layout."""
        return struct.unpack(layout, self._read_bytes(struct.calcsize(layout)))[0]

    def _read_line(self) -> str:
        """Read a line of text, without its end."""
        end = self._data.find(b"\n", self._position, self._position + _MAX_LINE_BYTES)
        if end < 0:
            raise ValueError("it has an unterminated name")
        line = self._read_bytes(end + 1 - self._position)[:-1]
        return line.decode("utf-8")

    def _read_string(self, layout: str) -> bytes:
        """Read a string of bytes that is preceded by its length."""
        size = self._read_number(layout)
        if not 0 <= size <= _MAX_STRING_BYTES:
            raise ValueError(f"it has a string of {size:,} bytes; accepted: 0 to {_MAX_STRING_BYTES:,}")
        return self._read_bytes(size)

    # --- the stack ---

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it takes a value from an empty stack")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        """Pop the values above the topmost mark, and the mark itself."""
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                values = self._stack[i + 1 :]
                del self._stack[i:]
                return values
        raise ValueError("its stack has no mark")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    # --- containers ---

    def push_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append_items(self, values: list[Any]) -> None:
        """Append the values to the list or record on top of the stack."""
        target = self._top()
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Set alternating keys and values in the dict or record on top of the stack."""
        target = self._top()
        if len(values) % 2:
            raise ValueError("it sets keys without values")
        pairs = [(check_key(name), value) for name, value in zip(values[::2], values[1::2], strict=True)]
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Record):
            target.items.extend(pairs)
        else:
            raise ValueError(f"it sets keys of a {type(target).__name__}")

    def add_items(self, values: list[Any]) -> None:
        """Add the values to the set on top of the stack."""
        target = self._top()
        if not isinstance(target, set):
            raise ValueError(f"it adds to a {type(target).__name__}")
        target.update(check_key(value) for value in values)

    # --- memory, names, objects ---

    def store_memo(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        self._memo[index] = self._top()

    def memoize(self) -> None:
        """Store the top of the stack under the next free index of the memo."""
        self.store_memo(len(self._memo))

    def push_memo(self, index: int) -> None:
        """Push a value from the memo."""
        if index not in self._memo:
            raise ValueError("it reads a memo entry that it never stored")
        self.push(self._memo[index])

    def push_global(self) -> None:
        self.push(resolve_global(self._read_line(), self._read_line()))

    def push_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.push(resolve_global(module, name))

    def reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._call(function, args)

    def new_object_with_kwargs(self) -> None:
        kwargs, args, cls = self._pop(), self._pop(), self._pop()
        if not isinstance(kwargs, dict):
            raise ValueError("it makes an object with keyword arguments that aren't a dictionary")
        self._call(cls, args)

    def _call(self, function: Any, args: Any) -> None:
        if isinstance(args, tuple):
            # A call may copy its arguments, and three opcodes suffice to repeat it.
            self._count_steps(sum(len(arg) for arg in args if isinstance(arg, list | tuple | dict | set | str)))
        self.push(evaluate_call(function, args))

    def build(self) -> None:
        """Set attributes of the record on top of the stack, from a dict or a pair of dicts (with slots)."""
        state, target = self._pop(), self._top()
        if not isinstance(target, Record):
            if isinstance(target, dict | set) and isinstance(state, dict):
                return  # attributes of an OrderedDict, which no module needs
            raise ValueError(f"it sets attributes of a {type(target).__name__}")
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self._count_steps(len(part or ()))
                target.state.update(part or {})
        else:  # a state in the class's own format, such as NumPy's
            target.items.append(state)

    def push_persistent(self) -> None:
        """Push what a persistent id stands for, and remember storages."""
        ref = resolve_persistent_id(self._pop())
        if isinstance(ref, StorageRef) and self.storages.setdefault(ref.key, ref) != ref:
            raise ValueError(f"it describes storage {ref.key!r} twice, differently")
        self.push(ref)

    def check_protocol(self) -> None:
        version = self._read_number("<B")
        if not 2 <= version <= 5:
            raise ValueError(f"it is of pickle protocol {version}; accepted: 2 to 5")

    def push_long(self) -> None:
        self.push(int.from_bytes(self._read_bytes(self._read_number("<B")), "little", signed=True))

    def push_text(self, layout: str) -> None:
        self.push(self._read_string(layout).decode("utf-8", "surrogatepass"))

    def skip_frame(self) -> None:
        """Skip a frame's header. ValueError if the frame is longer than the data."""
        if self._read_number("<Q") > len(self._data) - self._position:
            raise ValueError("it is truncated")


Action = Callable[[PickleInterpreter], Any]

_ACTIONS: dict[int, Action] = {
    code[0]: action
    for code, action in {
        b"\x80": PickleInterpreter.check_protocol,  # PROTO
        b"\x95": PickleInterpreter.skip_frame,  # FRAME
        b".": lambda m: _STOP,  # STOP
        b"(": lambda m: m.push(_MARK),  # MARK
        b"0": lambda m: m._stack.pop() if m._stack and m._stack[-1] is _MARK else m._pop(),  # POP
        b"1": lambda m: m._pop_to_mark(),  # POP_MARK
        b"2": lambda m: m.push(m._top()),  # DUP
        b"N": lambda m: m.push(None),  # NONE
        b"\x88": lambda m: m.push(True),  # NEWTRUE
        b"\x89": lambda m: m.push(False),  # NEWFALSE
        b"K": lambda m: m.push(m._read_number("<B")),  # BININT1
        b"M": lambda m: m.push(m._read_number("<H")),  # BININT2
        b"J": lambda m: m.push(m._read_number("<i")),  # BININT
        b"\x8a": PickleInterpreter.push_long,  # LONG1
        b"G": lambda m: m.push(m._read_number(">d")),  # BINFLOAT
        b"X": lambda m: m.push_text("<I"),  # BINUNICODE
        b"\x8c": lambda m: m.push_text("<B"),  # SHORT_BINUNICODE
        b"\x8d": lambda m: m.push_text("<Q"),  # BINUNICODE8
        b"U": lambda m: m.push(m._read_string("<B").decode("latin-1")),  # SHORT_BINSTRING
        b"T": lambda m: m.push(m._read_string("<i").decode("latin-1")),  # BINSTRING
        b"B": lambda m: m.push(m._read_string("<I")),  # BINBYTES
        b"C": lambda m: m.push(m._read_string("<B")),  # SHORT_BINBYTES
        b"\x8e": lambda m: m.push(m._read_string("<Q")),  # BINBYTES8
        b"\x96": lambda m: m.push(m._read_string("<Q")),  # BYTEARRAY8
        b"]": lambda m: m.push([]),  # EMPTY_LIST
        b"}": lambda m: m.push({}),  # EMPTY_DICT
        b")": lambda m: m.push(()),  # EMPTY_TUPLE
        b"\x8f": lambda m: m.push(set()),  # EMPTY_SET
        b"t": lambda m: m.push(tuple(m._pop_to_mark())),  # TUPLE
        b"\x85": lambda m: m.push_tuple(1),  # TUPLE1
        b"\x86": lambda m: m.push_tuple(2),  # TUPLE2
        b"\x87": lambda m: m.push_tuple(3),  # TUPLE3
        b"l": lambda m: m.push(m._pop_to_mark()),  # LIST
        b"\x91": lambda m: m.push({check_key(value) for value in m._pop_to_mark()}),  # FROZENSET
        b"a": lambda m: m.append_items([m._pop()]),  # APPEND
        b"e": lambda m: m.append_items(m._pop_to_mark()),  # APPENDS
        b"s": lambda m: m.set_items([m._pop(), m._pop()][::-1]),  # SETITEM
        b"u": lambda m: m.set_items(m._pop_to_mark()),  # SETITEMS
        b"\x90": lambda m: m.add_items(m._pop_to_mark()),  # ADDITEMS
        b"q": lambda m: m.store_memo(m._read_number("<B")),  # BINPUT
        b"r": lambda m: m.store_memo(m._read_number("<I")),  # LONG_BINPUT
        b"\x94": PickleInterpreter.memoize,  # MEMOIZE
        b"h": lambda m: m.push_memo(m._read_number("<B")),  # BINGET
        b"j": lambda m: m.push_memo(m._read_number("<I")),  # LONG_BINGET
        b"c": PickleInterpreter.push_global,  # GLOBAL
        b"\x93": PickleInterpreter.push_stack_global,  # STACK_GLOBAL
        b"R": PickleInterpreter.reduce,  # REDUCE
        b"\x81": PickleInterpreter.reduce,  # NEWOBJ
        b"\x92": PickleInterpreter.new_object_with_kwargs,  # NEWOBJ_EX
        b"b": PickleInterpreter.build,  # BUILD
        b"Q": PickleInterpreter.push_persistent,  # BINPERSID
    }.items()
}
