"""Reading pickled modules without executing them: the values read, and ValueError for damaged files."""

from __future__ import annotations

import pathlib
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsam_core.detect.yolo.weights import read_weights
from fastsam_core.models.pickled import GlobalRef, Record, TensorRef, open_pickled
from fastsam_core.models.pickled.interpreter import PickleInterpreter
from pickled_files import saved, untouched
from yolo_files import IterableSimpleNamespace, make, published_paths, write

pytestmark = pytest.mark.once("reading a file calls no operation")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder, in which an executed attack would leave a file."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("yolo")
    net = make("segment")
    return {
        "zip": write(folder / "zip.pt", net),
        "legacy": write(folder / "legacy.pt", net, legacy=True),
        "detect": write(folder / "detect.pt", make("detect")),
    }


# --- valid files


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_module_is_read_as_a_record(files: dict[str, Path], kind: str) -> None:
    opened = open_pickled(files[kind])
    model = opened.content["model"]
    assert isinstance(model, Record) and str(model.name) == "ultralytics.nn.tasks.SegmentationModel"
    assert model.state["names"][1] == "kind 1" and opened.content["train_args"]["imgsz"] == 96
    head = model.state["_modules"]["model"].state["_modules"]["22"]
    assert str(head.state["detect"]) == "ultralytics.nn.modules.head.Detect.forward"
    first = model.state["_modules"]["model"].state["_modules"]["0"].state["_modules"]["conv"]
    place = first.state["_parameters"]["weight"]
    assert isinstance(place, TensorRef) and place.shape == (8, 3, 3, 3)
    tensor = opened.tensors({"w": place})["w"]
    expected = make("segment").model[0].conv.weight.half()
    assert torch.equal(tensor, expected)


def test_reading_imports_no_ultralytics_modules(files: dict[str, Path]) -> None:
    import sys

    assert not [name for name in sys.modules if name.startswith("ultralytics")]
    read_weights(files["zip"])
    assert not [name for name in sys.modules if name.startswith("ultralytics")]


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_all_layouts_are_read(zipped: bool) -> None:
    base = torch.arange(48, dtype=torch.float32).view(6, 8)
    tensors = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:4, 2:5],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    opened = open_pickled(saved(tensors, zipped=zipped))
    read = opened.tensors(opened.content)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor.detach()), name


def test_plain_values_and_settings_are_read() -> None:
    with published_paths():
        values = {
            "settings": IterableSimpleNamespace(imgsz=640, data=pathlib.PurePosixPath("a/b")),
            "numbers": [1, -1, 2**40, 1.5, True, None, (1, 2, 3, 4), {5}, b"raw", "text" * 100],
            "fitness": np.float64(0.25),
            "array": np.arange(3),
            "size": torch.Size([1, 2]),
            "dtype": torch.float16,
            "ordered": OrderedDict(a=1, b=2),
            "device": torch.device("cpu"),
        }
        path = saved(values)
    read = open_pickled(path).content
    assert read["settings"].state["imgsz"] == 640 and isinstance(read["settings"].state["data"], Record)
    assert read["numbers"] == values["numbers"]
    assert (
        read["size"] == (1, 2)
        and read["dtype"] == GlobalRef("torch", "float16")
        and read["ordered"] == {"a": 1, "b": 2}
    )
    assert all(isinstance(read[name], Record) for name in ("fitness", "array", "device"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols_2_to_5(protocol: int) -> None:
    value = {"a": [1, 2.5, "x", None, True], "b": {1, 2}, "c": (1, (2, (3,))), "d": b"x" * 300, "e": "y" * 300}
    assert PickleInterpreter(pickle.dumps(value, protocol)).run() == value


# --- damaged and arbitrary input


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed))
        action = rng.randrange(4)
        if action == 0:
            changed[place] = rng.randrange(256)
        elif action == 1:
            changed[place : place + rng.randrange(8)] = b""
        elif action == 2:
            changed[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(8)))
        else:
            other = rng.randrange(len(changed))
            changed[place : place + 16] = changed[other : other + 16]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["zip", "legacy", "description"])
def test_damaged_files_load_or_raise_value_error(files: dict[str, Path], kind: str) -> None:
    path = files["legacy" if kind == "legacy" else "detect"]
    with zipfile.ZipFile(files["detect"]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = next(name for name in members if name.endswith("data.pkl"))
    whole = path.read_bytes()
    rng, refused, read = random.Random(11), 0, 0
    for _ in range(60):
        if kind == "description":
            with zipfile.ZipFile("damaged.pt", "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, mutate(rng, data) if name == described else data)
        else:
            # Damage the structure, not the tensors: the pickle at the start of both, or the zip directory at the end.
            start = rng.choice((0, max(0, len(whole) - 20_000)))
            part = whole[start : start + 20_000]
            Path("damaged.pt").write_bytes(whole[:start] + mutate(rng, part) + whole[start + 20_000 :])
        try:
            read_weights(Path("damaged.pt")).build_network()
            read += 1
        except ValueError:
            refused += 1
    assert read + refused == 60 and refused > 20
    assert untouched()


_OPCODES = b".()]}t\x85\x86R\x81baesuQN\x94201l\x8f\x90\x91\x92\x93"
_NAMES = ("ultralytics.a\nB", "collections\nOrderedDict", "__builtin__\ngetattr", "__builtin__\nset", "torch\nSize")
_NAMES += ("torch\nFloatStorage", "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter", "os\nsystem")
_WORDS = [bytes([code]) for code in _OPCODES]
_WORDS += [b"K\x05", b"X\x02\x00\x00\x00ab", b"q\x00", b"h\x00", *(b"c%s\n" % name.encode() for name in _NAMES)]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=40))
def test_any_opcode_sequence_returns_or_raises_value_error(words: list[bytes]) -> None:
    try:
        PickleInterpreter(b"\x80\x02" + b"".join(words) + b".").run()
    except ValueError:
        return


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.integers(2, 5),
)
def test_plain_data_is_read_as_by_pickle(value: Any, protocol: int) -> None:
    assert PickleInterpreter(pickle.dumps(value, protocol)).run() == value


def test_other_files_raise_value_error_with_their_name() -> None:
    contents = {
        b"hello": "unknown format",
        pickle.dumps({"a": 1}): "a pickle, but not one of torch.save",
        b"\x02\0\0\0\0\0\0\0{}": "a safetensors file, which holds no pickle",
    }
    for content, said in contents.items():
        Path("w.pt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"w\.pt .*{said}"):
            open_pickled(Path("w.pt"))
