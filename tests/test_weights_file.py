"""Checkpoint files: formats and wrappers that are read, invalid files, and that pickled code never runs."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import yolo_files
from fastsam_core.models.checkpoint import load_model, read_state_dict
from weights_examples import NANO, State, empty_folders, nano_state, same


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def nano() -> State:
    return nano_state()


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "weights.pt": lambda state, path: torch.save(state, path),
    "weights.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": lambda state, path: save_file(state, path),
    # The format is detected from the content, so a wrong suffix is harmless.
    "misnamed.pt": lambda state, path: save_file(state, path),
    "misnamed.safetensors": lambda state, path: torch.save(state, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_are_read_from_every_format(tmp_path: Path, nano: State, name: str) -> None:
    WRITERS[name](nano, tmp_path / name)
    state = read_state_dict(tmp_path / name)
    assert state.keys() == nano.keys() and all(torch.equal(state[key], nano[key]) for key in nano)
    model = load_model(tmp_path / name)
    assert model.name == NANO and not model.training and model.device.type == "cpu"
    assert same(model, nano)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_become_float32(nano: State, dtype: torch.dtype) -> None:
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in nano.items()}
    save_file(cast, "w.safetensors")
    model = load_model("w.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert same(model, {key: value.to(nano[key].dtype) for key, value in cast.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model_state": {f"sam.{key}": value for key, value in state.items()}, "decoder_state": state},
        lambda state: {"sam_model": state, "optimizer": {"state": {0: torch.ones(3)}}, "loss": torch.ones(())},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {**state, "epoch": 3, "pixel_mean": torch.zeros(3, 1, 1)},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
)
def test_wrapped_state_dicts_are_unwrapped(nano: State, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(nano), "w.pt")
    model = load_model("w.pt")
    assert same(model, {**model.state_dict(), **nano})


def test_missing_files_and_folders_are_told_apart() -> None:
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: w\.pt"):
        read_state_dict("w.pt")
    Path("w.pt").mkdir()
    with pytest.raises(ValueError, match=r"w\.pt is not a file"):
        read_state_dict("w.pt")


def test_prefix_that_some_names_lack_is_part_of_the_names() -> None:
    state = {"module.a": torch.ones(1), "module.model.b": torch.ones(1), "model.c": torch.ones(1)}
    torch.save(state, "w.pt")
    assert read_state_dict("w.pt").keys() == state.keys()
    del state["model.c"]
    torch.save(state, "w.pt")
    assert read_state_dict("w.pt").keys() == {"a", "model.b"}


def test_loading_copies_the_weights_and_leaves_the_random_state(nano: State) -> None:
    save_file(nano, "w.safetensors")
    torch.save(nano, "w.pt")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    models = [load_model("w.safetensors"), load_model("w.pt")]
    assert torch.equal(torch.rand(3), expected)
    for name in ("w.safetensors", "w.pt"):
        with open(name, "r+b") as file:
            file.write(b"\0" * os.path.getsize(name))
    assert all(same(model, nano) for model in models)


class Evil:
    """Object that creates a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


class Module(torch.nn.Linear):
    """Stand-in for the modules that some checkpoints pickle whole."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [Evil(), {"model": Evil()}, {"a": torch.zeros(1), "b": Evil()}])
def test_code_in_a_checkpoint_is_not_executed(content: Any, zipped: bool) -> None:
    torch.save(content, "evil.pt", _use_new_zipfile_serialization=zipped)
    for action in (read_state_dict, load_model):
        with pytest.raises(ValueError, match=r"pickled Python objects.*never\s+executed.*state_dict"):
            action("evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"plain\.pt"):
        load_model("plain.pt")
    assert not os.path.exists("executed")


def test_pickled_module_is_refused_by_class_name() -> None:
    torch.save({"model": Module(2, 2)}, "yolo.pt")
    with pytest.raises(ValueError, match=rf"pickled Python objects \({__name__}\.Module\)"):
        load_model("yolo.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_detector_checkpoint_is_refused(legacy: bool) -> None:
    yolo_files.write(Path("best.pt"), yolo_files.make(), legacy=legacy)
    with pytest.raises(ValueError, match=r"best\.pt is not a Segment Anything model; YOLO and FastSAM"):
        load_model("best.pt")


def test_tar_that_looks_like_a_pickle_is_refused() -> None:
    # torch.load tries its reader of old tar checkpoints first on such files.
    buffer, content = BytesIO(), pickle.dumps(Evil())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("..tensors")
        info.size = len(content)
        archive.addfile(info, BytesIO(content))
    data = bytearray(buffer.getvalue())
    data[:2] = b"\x80\x02"  # read as a file name by tar, as a pickle header by torch
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    Path("w.pt").write_bytes(data)
    assert tarfile.is_tarfile("w.pt")
    with pytest.raises(ValueError, match="unknown format"):
        read_state_dict("w.pt")
    assert not os.path.exists("executed")


def test_torchscript_is_refused() -> None:
    with zipfile.ZipFile("script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    with pytest.raises(ValueError, match="TorchScript"):
        read_state_dict("script.pt")


def test_compressed_archive_is_refused(nano: State) -> None:
    torch.save({"a": torch.zeros(10_000)}, "w.pt")
    with zipfile.ZipFile("w.pt") as source, zipfile.ZipFile("c.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(ValueError, match="compressed archive"):
        read_state_dict("c.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x08\x07" + b" " * 40 + b"onnx", "ONNX"),
        (b"\x1c\0\0\0TFL3\x14\0", "TFLite"),
        (b"\x89PNG\r\n\x1a\n", "unknown format"),
        (b"PK\x03\x04 and nothing else", "damaged or incomplete"),
        (b"\x80\x02 and nothing else", "damaged or holds"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged safetensors"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    Path("w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\.pt.*{message}"):
        load_model("w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "no tensors by name, but nothing"),
        ({"epoch": 3, "lr": 0.1}, "no tensors by name, but 'epoch', 'lr'"),
        ({"model": {"a": 1}}, "no tensors by name, but 'a'"),
        ({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.zeros(1)}}, "no tensors by name, but 'student', 't"),
        ({"a": torch.zeros(1), "rest": {"b": torch.zeros(1)}}, r"found 1 tensor \(a"),
    ],
)
def test_files_without_a_state_dict_are_refused(content: Any, message: str) -> None:
    torch.save(content, "w.pt")
    with pytest.raises(ValueError, match=message):
        load_model("w.pt")


@pytest.mark.parametrize(("version", "is_warned"), [("2.4.1", True), ("2.9.1+cpu", True), ("2.10.0a0", False)])
def test_older_pytorch_logs_its_flaw_for_pt_files_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, is_warned: bool
) -> None:
    state = {"a": torch.zeros(3)}
    torch.save(state, "w.pt")
    save_file(state, "w.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    read_state_dict("w.safetensors")
    assert not caplog.records
    read_state_dict("w.pt")
    assert [f"torch {version} has a known flaw" in record.message for record in caplog.records] == [True] * is_warned


def test_dictionaries_that_hold_themselves_are_refused() -> None:
    outer: dict[str, Any] = {}
    outer["model"] = {"state_dict": outer}
    torch.save(outer, "w.pt")
    with pytest.raises(ValueError, match="no tensors by name, but 'model'"):
        read_state_dict("w.pt")


@pytest.mark.parametrize("kind", ["meta", "sparse_coo", "nested", "quantized"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_dense_are_refused(nano: State, kind: str) -> None:
    key = next(key for key in nano if nano[key].ndim == 2)
    value = {
        "meta": lambda: nano[key].to("meta"),
        "sparse_coo": lambda: nano[key].to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([nano[key]]),
        "quantized": lambda: torch.quantize_per_tensor(nano[key], 0.1, 0, torch.qint8),
    }[kind]()
    torch.save({**nano, key: value}, "w.pt")
    with pytest.raises(ValueError, match=rf"w\.pt: tensor '{key}' must be a plain tensor, not a {kind} one"):
        load_model("w.pt")


@pytest.mark.filterwarnings("ignore")
def test_damaged_checkpoints_give_tensors_or_value_errors() -> None:
    state = {f"layer{i}.weight": torch.randn(3, i + 1) for i in range(6)}
    for name, write in WRITERS.items():
        write(state, Path(name))
    files = [Path(name).read_bytes() for name in ("weights.pt", "weights.pth", "weights.safetensors")]
    rng, refused, read = random.Random(5), 0, 0
    for number in range(300):
        data = bytearray(files[number % 3])
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        Path("damaged.pt").write_bytes(data)
        try:
            for tensor in read_state_dict("damaged.pt").values():
                tensor.sum()
            read += 1
        except ValueError:
            refused += 1
    assert read + refused == 300 and read > 20 and refused > 100
