"""An interpreter of pickle opcodes that builds plain data and calls nothing.

Everything is treated as data: a name becomes a `Name`, and a call becomes what `names.call` defines for it. The time
and memory that a file can make this consume are bounded by the file's size and by the limits below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .names import call, persistent, resolve
from .records import Record, StorageRef, key

# For comparison: the pickle of the largest YOLOv8 checkpoint has 66,000 opcodes in 160 kB; with an optimizer's state it
# has 1.5 times as many.
MAX_BYTES = 32 << 20
MAX_STEPS = 2_000_000
_MAX_WORD = 1 << 20  # bytes of a single string or bytes object
_MAX_LINE = 256  # bytes of a line that holds a name


class _Mark:
    """The object that the opcode MARK pushes on the stack."""


_MARK = _Mark()
_STOP = object()


class Machine:
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
            code = self._take(1)[0]
            self._spend(1)
            action = _ACTIONS.get(code)
            if action is None:
                raise ValueError(f"it has the opcode {bytes([code])!r}, which PyTorch doesn't write")
            if action(self) is _STOP:
                result = self._pop()
                if self._stack:
                    raise ValueError("values are left on its stack")
                return result

    def _spend(self, steps: int) -> None:
        """Count steps. ValueError above the limit."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ValueError(f"reading it takes more than {MAX_STEPS:,} steps")

    # --- reading ---

    def _take(self, count: int) -> bytes:
        """Read `count` bytes."""
        end = self._position + count
        if end > len(self._data):
            raise ValueError("it is truncated")
        part = self._data[self._position : end]
        self._position = end
        return part

    def _number(self, layout: str) -> Any:
        """Read a number in a `struct` layout."""
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        """Read a line of text, without its end."""
        end = self._data.find(b"\n", self._position, self._position + _MAX_LINE)
        if end < 0:
            raise ValueError("it has an unterminated name")
        line = self._take(end + 1 - self._position)[:-1]
        return line.decode("utf-8")

    def _word(self, layout: str) -> bytes:
        """Read a string of bytes that is preceded by its length."""
        size = self._number(layout)
        if not 0 <= size <= _MAX_WORD:
            raise ValueError(f"it has a string of {size:,} bytes; accepted: 0 to {_MAX_WORD:,}")
        return self._take(size)

    # --- the stack ---

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("it takes a value from an empty stack")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        """Pop the values above the topmost mark, and the mark itself."""
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise ValueError("its stack has no mark")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    # --- containers ---

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def extend(self, values: list[Any]) -> None:
        """Append the values to the list or record on top of the stack."""
        target = self._top()
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def update(self, values: list[Any]) -> None:
        """Set alternating keys and values in the dict or record on top of the stack."""
        target = self._top()
        if len(values) % 2:
            raise ValueError("it sets keys without values")
        pairs = [(key(name), value) for name, value in zip(values[::2], values[1::2], strict=True)]
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Record):
            target.items.extend(pairs)
        else:
            raise ValueError(f"it sets keys of a {type(target).__name__}")

    def add(self, values: list[Any]) -> None:
        """Add the values to the set on top of the stack."""
        target = self._top()
        if not isinstance(target, set):
            raise ValueError(f"it adds to a {type(target).__name__}")
        target.update(key(value) for value in values)

    # --- memory, names, objects ---

    def put(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        self._memo[index] = self._top()

    def memoize(self) -> None:
        """Store the top of the stack under the next free index of the memo."""
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        """Push a value from the memo."""
        if index not in self._memo:
            raise ValueError("it reads a memo entry that it never stored")
        self.push(self._memo[index])

    def name(self) -> None:
        self.push(resolve(self._line(), self._line()))

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        self.push(resolve(module, name))

    def reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._call(function, args)

    def new_object_by_names(self) -> None:
        kwargs, args, cls = self._pop(), self._pop(), self._pop()
        if not isinstance(kwargs, dict):
            raise ValueError("it makes an object with keyword arguments that aren't a dictionary")
        self._call(cls, args)

    def _call(self, function: Any, args: Any) -> None:
        if isinstance(args, tuple):
            # A call may copy its arguments, and three opcodes suffice to repeat it.
            self._spend(sum(len(arg) for arg in args if isinstance(arg, list | tuple | dict | set | str)))
        self.push(call(function, args))

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
                self._spend(len(part or ()))
                target.state.update(part or {})
        else:  # a state in the class's own format, such as NumPy's
            target.items.append(state)

    def persistent(self) -> None:
        """Push what a persistent id stands for, and remember storages."""
        found = persistent(self._pop())
        if isinstance(found, StorageRef) and self.storages.setdefault(found.key, found) != found:
            raise ValueError(f"it describes storage {found.key!r} twice, differently")
        self.push(found)

    def protocol(self) -> None:
        version = self._number("<B")
        if not 2 <= version <= 5:
            raise ValueError(f"it is of pickle protocol {version}; accepted: 2 to 5")

    def big_number(self) -> None:
        self.push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def text(self, layout: str) -> None:
        self.push(self._word(layout).decode("utf-8", "surrogatepass"))

    def frame(self) -> None:
        """Skip a frame's header. ValueError if the frame is longer than the data."""
        if self._number("<Q") > len(self._data) - self._position:
            raise ValueError("it is truncated")


Action = Callable[[Machine], Any]

_ACTIONS: dict[int, Action] = {
    code[0]: action
    for code, action in {
        b"\x80": Machine.protocol,  # PROTO
        b"\x95": Machine.frame,  # FRAME
        b".": lambda m: _STOP,  # STOP
        b"(": lambda m: m.push(_MARK),  # MARK
        b"0": lambda m: m._stack.pop() if m._stack and m._stack[-1] is _MARK else m._pop(),  # POP
        b"1": lambda m: m._to_mark(),  # POP_MARK
        b"2": lambda m: m.push(m._top()),  # DUP
        b"N": lambda m: m.push(None),  # NONE
        b"\x88": lambda m: m.push(True),  # NEWTRUE
        b"\x89": lambda m: m.push(False),  # NEWFALSE
        b"K": lambda m: m.push(m._number("<B")),  # BININT1
        b"M": lambda m: m.push(m._number("<H")),  # BININT2
        b"J": lambda m: m.push(m._number("<i")),  # BININT
        b"\x8a": Machine.big_number,  # LONG1
        b"G": lambda m: m.push(m._number(">d")),  # BINFLOAT
        b"X": lambda m: m.text("<I"),  # BINUNICODE
        b"\x8c": lambda m: m.text("<B"),  # SHORT_BINUNICODE
        b"\x8d": lambda m: m.text("<Q"),  # BINUNICODE8
        b"U": lambda m: m.push(m._word("<B").decode("latin-1")),  # SHORT_BINSTRING
        b"T": lambda m: m.push(m._word("<i").decode("latin-1")),  # BINSTRING
        b"B": lambda m: m.push(m._word("<I")),  # BINBYTES
        b"C": lambda m: m.push(m._word("<B")),  # SHORT_BINBYTES
        b"\x8e": lambda m: m.push(m._word("<Q")),  # BINBYTES8
        b"\x96": lambda m: m.push(m._word("<Q")),  # BYTEARRAY8
        b"]": lambda m: m.push([]),  # EMPTY_LIST
        b"}": lambda m: m.push({}),  # EMPTY_DICT
        b")": lambda m: m.push(()),  # EMPTY_TUPLE
        b"\x8f": lambda m: m.push(set()),  # EMPTY_SET
        b"t": lambda m: m.push(tuple(m._to_mark())),  # TUPLE
        b"\x85": lambda m: m.tuple_of(1),  # TUPLE1
        b"\x86": lambda m: m.tuple_of(2),  # TUPLE2
        b"\x87": lambda m: m.tuple_of(3),  # TUPLE3
        b"l": lambda m: m.push(m._to_mark()),  # LIST
        b"\x91": lambda m: m.push({key(value) for value in m._to_mark()}),  # FROZENSET
        b"a": lambda m: m.extend([m._pop()]),  # APPEND
        b"e": lambda m: m.extend(m._to_mark()),  # APPENDS
        b"s": lambda m: m.update([m._pop(), m._pop()][::-1]),  # SETITEM
        b"u": lambda m: m.update(m._to_mark()),  # SETITEMS
        b"\x90": lambda m: m.add(m._to_mark()),  # ADDITEMS
        b"q": lambda m: m.put(m._number("<B")),  # BINPUT
        b"r": lambda m: m.put(m._number("<I")),  # LONG_BINPUT
        b"\x94": Machine.memoize,  # MEMOIZE
        b"h": lambda m: m.get(m._number("<B")),  # BINGET
        b"j": lambda m: m.get(m._number("<I")),  # LONG_BINGET
        b"c": Machine.name,  # GLOBAL
        b"\x93": Machine.stack_name,  # STACK_GLOBAL
        b"R": Machine.reduce,  # REDUCE
        b"\x81": Machine.reduce,  # NEWOBJ
        b"\x92": Machine.new_object_by_names,  # NEWOBJ_EX
        b"b": Machine.build,  # BUILD
        b"Q": Machine.persistent,  # BINPERSID
    }.items()
}
