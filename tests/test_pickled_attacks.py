"""Malicious pickled files: calls are refused without being executed, and reading takes bounded time and memory."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core.detect.yolo.pickled_checkpoint import read_pickled_checkpoint
from fastsam_core.detect.yolo.weights import read_weights
from fastsam_core.models.pickled import interpreter, open_pickled
from fastsam_core.models.pickled.interpreter import PickleInterpreter
from pickled_files import saved, untouched, with_pickle
from yolo_files import make, published_paths, write

pytestmark = pytest.mark.once("reading a file calls no operation")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder, in which an executed attack would leave a file."""
    monkeypatch.chdir(tmp_path)


# --- refused pickles


class Call:
    """Object that is pickled as the call `function(*args)`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def attacks() -> dict[str, Any]:
    return {
        "os.system": Call(os.system, "touch executed"),
        "os.mkdir": Call(os.mkdir, "executed"),
        "eval": Call(eval, "__import__('os').mkdir('executed')"),
        "exec": Call(exec, "__import__('os').mkdir('executed')"),
        "open": Call(open, "executed", "w"),
        "import": Call(__import__, "antigravity"),
        "getattr of a class": Call(getattr, Path, "touch"),
        "getattr of an object": Call(getattr, "text", "format"),
        "getattr of a type": Call(getattr, dict, "fromkeys"),
        "getattr of settings": Call(getattr, argparse.Namespace(a=1), "a"),
        "getattr of a path": Call(getattr, PurePosixPath("a"), "name"),
        "torch.load": Call(torch.load, "w.pt"),
        "torch.hub": Call(torch.hub.load, "a/b", "c"),
        "numpy.load": Call(np.load, "executed"),
        "pickle.loads": Call(pickle.loads, b"N."),
        "subprocess": Call(__import__("subprocess").Popen, ["touch", "executed"]),
        "compile": Call(compile, "1", "a", "eval"),
        "map": Call(map, str, [1]),
        "type": Call(type, "T", (), {}),
        "setattr": Call(setattr, Path, "cwd", None),
    }


@pytest.mark.parametrize("name", attacks())
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_calls_are_refused_without_execution(name: str, zipped: bool) -> None:
    for content in (attacks()[name], {"model": attacks()[name]}, {"names": {0: attacks()[name]}}):
        path = saved(content, zipped=zipped)
        with pytest.raises(ValueError, match=r"w\.pt .*Nothing of it was imported or run"):
            read_weights(path)
    assert untouched()


# Pickles written by hand, opcode by opcode.
RAW = {
    "global": b"\x80\x02cposix\nsystem\n(X\x0e\x00\x00\x00touch executedtR.",
    "old instance": b"\x80\x02(X\x0e\x00\x00\x00touch executediposix\nsystem\n.",
    "old object": b"\x80\x02(cposix\nsystem\nX\x0e\x00\x00\x00touch executedo.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0etouch executed\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "getattr by text": b"\x80\x02c__builtin__\ngetattr\nX\x02\x00\x00\x00osX\x06\x00\x00\x00system\x86R.",
    "getattr of getattr": b"\x80\x02c__builtin__\ngetattr\nc__builtin__\ngetattr\nX\x07\x00\x00\x00forward\x86R.",
    "dunder of a class": b"\x80\x02c__builtin__\ngetattr\ncultralytics.nn.tasks\nDetectionModel\n"
    b"X\x0b\x00\x00\x00__globals__\x86R.",
    "dunder of an object": b"\x80\x02c__builtin__\ngetattr\ncultralytics.nn.tasks\nDetectionModel\n)R"
    b"X\x09\x00\x00\x00__class__\x86R.",
    "method of a method": b"\x80\x02c__builtin__\ngetattr\ncultralytics.nn.tasks\nA.b\nX\x01\x00\x00\x00c\x86R.",
    "path in a module": b"\x80\x02cultralytics/../os\nsystem\n.",
    "dotted name": b"\x80\x04\x8c\x11ultralytics.utils\x8c\x0aos.system.x\x93.",
    "name that isn't text": b"\x80\x04K\x01K\x02\x93.",
    "call of a tuple": b"\x80\x02))R.",
    "call of text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "next buffer": b"\x80\x05\x97.",
    "text protocol": b"(lp0\n.",
    "protocol 9": b"\x80\x09N.",
    "persistent text": b"\x80\x02Pabc\n.",
    "persistent nonsense": b"\x80\x02K\x01Q.",
    "storage of another class": b"\x80\x02(X\x07\x00\x00\x00storagecultralytics.a\nB\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x01tQ.",
    "storage path": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x05\x00\x00\x00../..X\x03\x00\x00\x00cpu"
    b"K\x01tQ.",
    "set attributes of a tuple": b"\x80\x02)}b.",
    "set attributes of text": b"\x80\x02X\x01\x00\x00\x00a}b.",
    "append to a name": b"\x80\x02cultralytics.a\nB\nK\x01a.",
    "list as a key": b"\x80\x02}]K\x01s.",
    "tuple as a key": b"\x80\x02}K\x01\x85K\x01s.",
    "number with a chosen hash": b"\x80\x02}\x8a\x10" + ((2**61 - 1) * 2**60).to_bytes(16, "little") + b"K\x01s.",
    "odd pairs": b"\x80\x02}(K\x01u.",
    "no memory": b"\x80\x02h\x05.",
    "nothing to stop with": b"\x80\x02.",
    "leftovers": b"\x80\x02K\x01K\x02.",
    "no mark": b"\x80\x02K\x01t.",
    "value beyond a mark": b"\x80\x02(R.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "negative text": b"\x80\x02T" + struct.pack("<i", -5) + b"a.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "unterminated name": b"\x80\x02c" + b"a" * 5000,
    "broken text": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "cut short": b"\x80\x02X\x09\x00\x00\x00abc",
}


@pytest.mark.parametrize("name", RAW)
def test_raw_opcodes_are_refused_without_execution(name: str) -> None:
    with pytest.raises(ValueError, match=r"w\.pt "):
        open_pickled(with_pickle(RAW[name]))
    assert untouched()


def tensor_of(count: int, offset: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the pickle of one tensor that views storage "0", as torch.save writes it."""

    def number(value: int) -> bytes:
        data = value.to_bytes(16, "little", signed=True)
        return b"\x8a\x10" + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count)
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (100, 0, (101,), (1,)),
        (100, 1, (100,), (1,)),
        (100, 0, (10, 10), (10, 2)),
        (100, 0, (10, 11), (1, 1)),
        (100, 0, (1000, 1000), (0, 0)),
        (100, -1, (2,), (1,)),
        (100, 99, (2,), (-1,)),
        (100, 0, (-1,), (1,)),
        (100, 0, (2,), (2**70,)),
        (100, 0, (2**70,), (0,)),
        (100, 0, (0, 2**70), (1, 1)),
        (100, 0, (0, 2**40, 2**40), (1, 1, 1)),
        (100, 2**70, (1,), (1,)),
        (100, 0, (1,) * 9, (1,) * 9),
        (100, 0, (2, 2), (1,)),
        (-1, 0, (1,), (1,)),
    ],
)
def test_tensors_beyond_their_storage_are_refused(
    count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"w\.pt can't be read as a checkpoint: .*(tensor|storage)"):
        open_pickled(with_pickle(tensor_of(count, offset, shape, strides)))


@pytest.mark.parametrize("count", [101, 99, 2**40])
def test_storage_of_another_size_than_declared_is_refused(count: int) -> None:
    opened = open_pickled(with_pickle(tensor_of(count, 0, (2,), (1,))))
    with pytest.raises(ValueError, match=r"storage '0' should have .* bytes, not 400"):
        opened.tensors({"a": opened.content})


@pytest.mark.parametrize("count", [101, 2**40, 2**62])
def test_storage_beyond_the_end_of_a_legacy_file_is_refused(count: int) -> None:
    """Nothing is allocated for what the file only claims to hold."""
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    description = b"".join(pickle.dumps(part, 2) for part in parts) + tensor_of(count, 0, (2,), (1,))
    keys = pickle.dumps(["0"], 2)
    data = description + keys + count.to_bytes(8, "little") + bytes(400)
    for end in (None, -404):  # the second: within the storage's number of elements
        Path("w.pt").write_bytes(data[:end])
        opened = open_pickled(Path("w.pt"))
        with pytest.raises(ValueError, match=r"w\.pt can't be read as a checkpoint: it is truncated"):
            opened.tensors({"a": opened.content})


def test_many_tensors_over_one_storage_are_refused() -> None:
    opened = open_pickled(with_pickle(tensor_of(100, 0, (100,), (1,))))
    assert torch.equal(opened.tensors({"a": opened.content})["a"], torch.zeros(100))
    with pytest.raises(ValueError, match="its tensors claim 400,000 bytes"):
        opened.tensors({str(index): opened.content for index in range(1000)})


def test_storage_declared_in_two_sizes_is_refused() -> None:
    two = tensor_of(100, 0, (2,), (1,))[2:-1] + tensor_of(50, 0, (2,), (1,))[2:-1]
    with pytest.raises(ValueError, match="twice, differently"):
        open_pickled(with_pickle(b"\x80\x02" + two + b"\x86."))


# --- bombs: the work is bounded by the size of the file, whatever sizes it claims


def test_nested_list_bomb_stays_references() -> None:
    """Each list holds the previous one ten times ("billion laughs"): 10^60 leaves if they were ever copied."""
    levels = b"".join(b"](" + b"h%c" % level * 10 + b"eq%c0" % (level + 1) for level in range(60))
    data = b"\x80\x02]q\x000" + levels + b"h\x3c."
    value = PickleInterpreter(data).run()
    assert len(value) == 10 and value[0] is value[9]
    with pytest.raises(ValueError, match="holds a list"):
        read_weights(with_pickle(data))


@pytest.mark.parametrize(
    "repeated",
    [
        b"0h\x00\x85c__builtin__\nlist\nq\x010h\x01h\x00\x85R",  # list(long list), repeated
        b"0h\x01h\x00\x85R",
        b"0h\x02h\x03b",  # set an object's attributes, repeated
    ],
)
def test_repeated_copies_are_refused(repeated: bytes) -> None:
    long = b"(" + b"K\x01" * 10_000 + b"l" + b"q\x00"
    attributes = b"}(" + b"".join(b"X\x04\x00\x00\x00%04dK\x01" % index for index in range(5_000)) + b"uq\x03"
    names = b"c__builtin__\nlist\nq\x01" + b"cultralytics.a\nB\n)\x81q\x02" + attributes
    with pytest.raises(ValueError, match="takes more than"):
        PickleInterpreter(b"\x80\x02" + long + names + repeated * 2_000 + b".").run()


def test_too_many_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "MAX_STEPS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 steps"):
        PickleInterpreter(b"\x80\x02" + b"N0" * 1000 + b"N.").run()


def test_too_large_pickle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastsam_core.models.pickled import archive

    monkeypatch.setattr(archive, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        open_pickled(with_pickle(b"\x80\x02" + b"N0" * 100 + b"N."))


def test_deep_nesting_does_not_overflow_the_stack() -> None:
    deep = with_pickle(b"\x80\x02)" + b"\x85" * 300_000 + b".")
    with pytest.raises(ValueError, match="holds a tuple"):
        read_weights(deep)
    keyed = with_pickle(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.")
    with pytest.raises(ValueError, match="a tuple as a key"):  # hashing it would overflow the C stack
        read_weights(keyed)


def test_list_that_holds_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a list"):
        read_weights(with_pickle(b"\x80\x02]q\x00h\x00a."))


def test_module_that_holds_itself_is_refused() -> None:
    """The first layer is among its own children."""
    net = make("detect")
    with published_paths():
        net.model[0].add_module("again", net.model[0])
        path = saved({"model": net})
    with pytest.raises(ValueError, match="too many or nested too deeply"):
        read_weights(path)


def test_exponential_web_of_modules_is_refused() -> None:
    """Each of 12 levels of modules holds the next one ten times."""
    net = make("detect")
    with published_paths():
        inner: torch.nn.Module = torch.nn.Identity()
        for _ in range(12):
            outer = torch.nn.Module()
            for index in range(10):
                outer.add_module(str(index), inner)
            outer.__class__ = torch.nn.Identity
            inner = outer
        net.model[0].add_module("web", inner)
        path = saved({"model": net})
    with pytest.raises(ValueError, match="too many or nested too deeply"):
        read_weights(path)


def test_layers_that_are_no_modules_are_refused() -> None:
    net = make("detect")
    layers = net.model._modules
    layers["9"] = None
    with pytest.raises(ValueError, match="layer 9 is a NoneType, in YOLOv8 a SPPF"):
        read_weights(write(Path("none.pt"), net))
    layers.clear()
    with pytest.raises(ValueError, match="a network of 0 layers that ends with nothing"):
        read_weights(write(Path("empty.pt"), net))


def test_attributes_of_other_types_are_refused() -> None:
    content = open_pickled(write(Path("w.pt"), make("detect"))).content
    network = content["model"]
    layers = network.state["_modules"]["model"]
    normalisation = layers.state["_modules"]["0"].state["_modules"]["bn"]
    read_pickled_checkpoint(content)
    for record, key in ((network, "_modules"), (layers, "_modules"), (normalisation, "eps")):
        original = record.state[key]
        for value in (None, 3, "x", [1], {1: 2}):
            record.state[key] = value
            with pytest.raises(ValueError, match=r"not a YOLOv8|in YOLOv8 a|a network of 0|impossible epsilons"):
                read_pickled_checkpoint(content)
        record.state[key] = original
    layers.state["_modules"]["0"].state["_modules"]["act"].state["_modules"] = 3
    read_pickled_checkpoint(content)


def test_children_and_names_of_other_types_are_ignored() -> None:
    net = make("detect")
    net.model[5]._modules["more"] = None
    for names, expected in ((5, {}), (["cup"], {0: "cup"}), ({0: "cup", "one": "dish", 2: 7}, {0: "cup"})):
        net.names = names
        assert read_weights(write(Path("w.pt"), net)).metadata.names == expected


def test_inconsistent_archives_are_refused() -> None:
    data = bytearray(write(Path("detect.pt"), make("detect")).read_bytes())
    with zipfile.ZipFile("two.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("b/data.pkl", b"\x80\x02N.")
    with pytest.raises(ValueError, match="a zip archive, but not one of"):
        open_pickled(Path("two.pt"))
    with zipfile.ZipFile("big.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("a/byteorder", b"big")
    with pytest.raises(ValueError, match="another byte order"):
        open_pickled(Path("big.pt"))
    place = data.rfind(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)  # the last member's size
    Path("claims.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"claims\.pt "):
        read_weights(Path("claims.pt"))
