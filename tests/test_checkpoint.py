"""From names and files to models: where files are looked for, what is accepted, and what is said of anything else."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fastsam_core.models import checkpoint, published, registry
from fastsam_core.models.checkpoint import identify, load_model, load_state_dict, read_state_dict, resolve
from local_server import FileServer, reply, serve

State = dict[str, Tensor]
NANO = "sam_nano"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(current folder, FASTSAM_HOME), both empty; and no way out to the network."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("FASTSAM_HOME", str(home))
    for name, spec in registry.MODELS.items():
        gone = tuple(f"http://127.0.0.1:9/{url.rsplit('/', 1)[-1]}" for url in spec.urls)
        monkeypatch.setitem(registry.MODELS, name, replace(spec, urls=gone))
    return here, home


@pytest.fixture(scope="module")
def nano() -> State:
    torch.manual_seed(3)
    return registry.build(NANO).state_dict()


def hollow(name: str) -> State:
    """A state dict of the right names and shapes that takes no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in checkpoint._expected(name).items()}


def same(model: Any, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


# --- files


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "weights.pt": lambda state, path: torch.save(state, path),
    "weights.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": lambda state, path: save_file(state, path),
    # The content decides, so a wrong suffix does no harm.
    "misnamed.pt": lambda state, path: save_file(state, path),
    "misnamed.safetensors": lambda state, path: torch.save(state, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(tmp_path: Path, nano: State, name: str) -> None:
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
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {**state, "epoch": 3, "pixel_mean": torch.zeros(3, 1, 1)},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
)
def test_wrapped_state_dicts(nano: State, wrap: Callable[[State], Any]) -> None:
    torch.save(wrap(nano), "w.pt")
    model = load_model("w.pt")
    assert same(model, {**model.state_dict(), **nano})


def test_loading_neither_follows_the_file_nor_uses_random_numbers(nano: State) -> None:
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
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


class Module(torch.nn.Linear):
    """Stands for the whole modules that some checkpoints pickle."""


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


def test_pickled_module_is_named() -> None:
    torch.save({"model": Module(2, 2)}, "yolo.pt")
    with pytest.raises(ValueError, match=rf"pickled Python objects \({__name__}\.Module\)"):
        load_model("yolo.pt")


def test_tar_that_looks_like_a_pickle_is_refused() -> None:
    # torch.load gives such files to a reader of old tar checkpoints first.
    buffer, content = BytesIO(), pickle.dumps(Evil())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("..tensors")
        info.size = len(content)
        archive.addfile(info, BytesIO(content))
    data = bytearray(buffer.getvalue())
    data[:2] = b"\x80\x02"  # the start of a name for tar, of a pickle for torch
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
        (b"\x89PNG\r\n\x1a\n", "unknown format"),
        (b"PK\x03\x04 and nothing else", "damaged or incomplete"),
        (b"\x80\x02 and nothing else", "damaged or holds"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged safetensors"),
    ],
)
def test_files_that_are_no_checkpoints(content: bytes, message: str) -> None:
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
    ],
)
def test_files_without_a_state_dict(content: Any, message: str) -> None:
    torch.save(content, "w.pt")
    with pytest.raises(ValueError, match=message):
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


# --- which model


@pytest.mark.parametrize("name", registry.MODELS)
def test_models_are_recognised(name: str) -> None:
    state = hollow(name)
    assert identify(state) == name
    assert identify(state, "sam_b") == identify(state, name) == name
    extra = {prefix + "weight": torch.zeros(2) for prefix in registry.MODELS[name].ignored_keys}
    assert identify({**state, **extra}) == name


def test_classifier_tensors_of_mobile_sam_are_ignored() -> None:
    torch.manual_seed(0)
    state = registry.build("mobile_sam").state_dict()
    extra = {"image_encoder.head.weight": torch.zeros(10, 320), "image_encoder.norm_head.bias": torch.zeros(320)}
    torch.save({**state, **extra}, "mobile_sam.pt")
    model = load_model("mobile_sam.pt")
    assert model.name == "mobile_sam" and same(model, state)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.conv.weight", "2.cv1.conv.weight"], "YOLO"),
        (["model.0.conv.weight", "model.2.cv1.conv.weight", "names"], "YOLO"),
        (["memory_attention.layers.0.norm1.weight", "image_encoder.trunk.pos_embed"], "SAM 2"),
        (["vision_encoder.pos_embed", "shared_image_embedding.positional_embedding"], "Hugging Face"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "plain vision transformer"),
        (["image_encoder.backbone.input_stem.op_list.0.conv.weight"], "another image encoder"),
        (["mask_decoder.hf_token.weight", "image_encoder.pos_embed"], "HQ-SAM"),
        (["encoder_x", "foo"], "Expected"),
    ],
)
def test_foreign_checkpoints_are_named(names: list[str], message: str) -> None:
    torch.save({name: torch.zeros(2) for name in names}, "w.pt")
    with pytest.raises(ValueError, match=rf"w\.pt: found {len(names)} tensors \({names[0]}.*{message}") as caught:
        load_model("w.pt")
    assert "Expected the state dict of one of: sam_b, sam_l, sam_h, mobile_sam, sam_nano" in str(caught.value)


def test_official_name_says_what_was_expected() -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(2)}, "sam_b.pt")
    with pytest.raises(ValueError, match=r"found 1 tensors .*ResNet.*Expected the state dict of sam_b"):
        load_model("sam_b.pt")


def test_damaged_state_dicts_are_listed(nano: State) -> None:
    keys = [key for key in nano if not key.endswith("num_batches_tracked")]
    state = {key: value for key, value in nano.items() if key not in keys[:6]}
    state[keys[10]] = torch.zeros(1, 2, 3)
    state["surplus"] = torch.zeros(1)
    torch.save(state, "w.pt")
    with pytest.raises(ValueError) as caught:
        load_model("w.pt")
    message = str(caught.value)
    assert "looks like sam_nano" in message
    assert f"6 tensors missing: {', '.join(keys[:4])}..." in message
    assert "1 tensors unexpected: surplus" in message
    assert f"{keys[10]} (1, 2, 3) instead of {tuple(nano[keys[10]].shape)}" in message


def test_integer_weights_are_refused(nano: State) -> None:
    key = next(key for key in nano if nano[key].ndim == 2)
    with pytest.raises(ValueError, match="of another shape or type"):
        identify({**nano, key: nano[key].to(torch.int8)})


def test_official_name_must_hold_its_model(nano: State, folders: tuple[Path, Path]) -> None:
    torch.save(nano, "sam_l.pt")
    with pytest.raises(ValueError, match=r"sam_l\.pt: the file name stands for sam_l, but .* are those of sam_nano"):
        load_model("sam_l.pt")
    torch.save(nano, "my_sam_l.pt")
    assert load_model("my_sam_l.pt").name == NANO


def test_load_state_dict_refuses_other_models(nano: State) -> None:
    model = registry.build(NANO)
    load_state_dict(model, nano)
    assert same(model, nano)
    with pytest.raises(ValueError, match="not the weights of sam_nano: "):
        load_state_dict(model, hollow("mobile_sam"))


# --- where


def touch(*parts: Any) -> Path:
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def test_order_of_places(folders: tuple[Path, Path]) -> None:
    here, home = folders
    for name in ("sam_b.pt", "sam_vit_b_01ec64.pth", "my.safetensors", "sub/my.pt"):
        stored = touch(home, name)
        assert resolve(name) == resolve(Path(name)) == stored
        local = touch(here, name)
        assert resolve(name) == Path(name) and resolve(local) == local
        local.unlink()


def test_one_official_file_serves_all_its_names(folders: tuple[Path, Path]) -> None:
    here, home = folders
    stored = touch(home, "sam_vit_b_01ec64.pth")
    assert resolve("sam_b.pt") == resolve("sam_b") == stored
    local = touch(here, "sam_b.pt")
    assert resolve("sam_b").resolve() == local


def test_folder_of_the_models_name_is_no_obstacle(folders: tuple[Path, Path]) -> None:
    here, home = folders
    (here / "sam_b").mkdir()
    stored = touch(home, "sam_b.pt")
    assert resolve("sam_b") == stored
    (here / "mine").mkdir()
    with pytest.raises(ValueError, match="a folder"):
        resolve("mine")


def test_bundled_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: tuple[Path, Path], nano: State
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(checkpoint.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="install fastsam_core again"):
        resolve("sam_nano")
    half = {key: value.half() if value.is_floating_point() else value for key, value in nano.items()}
    save_file(half, tmp_path / "weights" / "sam_nano.safetensors")
    for name in ("sam_nano", "sam_nano.pt", "sam_nano.safetensors"):
        assert resolve(name) == tmp_path / "weights" / "sam_nano.safetensors"
    assert load_model("sam_nano.pt").name == NANO
    stored = touch(folders[1], "sam_nano.pt")
    assert resolve("sam_nano.pt") == stored


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("sam_bb.pt", FileNotFoundError, r"no checkpoint 'sam_bb\.pt'.*did you mean 'sam_b\.pt'\?"),
        ("mobilesam", FileNotFoundError, r"did you mean 'mobile_sam'\?"),
        ("yolov8n.pt", FileNotFoundError, r"no official model of that name \(sam_b, sam_l"),
        ("nowhere/sam_b.pt", FileNotFoundError, r"nowhere does not exist; 'sam_b\.pt' without the folder means"),
        ("/tmp/../none.pt", FileNotFoundError, r"no checkpoint none\.pt in"),
        ("", ValueError, "empty string"),
        ("  ", ValueError, "empty string"),
        (3, TypeError, "not a int"),
        (["sam_b.pt"], TypeError, "not a list"),
    ],
)
def test_what_cannot_be_found(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(model)


def test_typo_in_a_folder_suggests_its_files(tmp_path: Path) -> None:
    touch(tmp_path, "finetuned.pt")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*finetuned\.pt"):
        resolve(tmp_path / "fine_tuned.pt")


def test_none_means_sam_b(folders: tuple[Path, Path]) -> None:
    touch(folders[1], "sam_b.pt")
    with pytest.raises(ValueError, match=r"home.sam_b\.pt is not a"):
        load_model(None)


def test_device_is_checked(nano: State) -> None:
    save_file(nano, "w.safetensors")
    with pytest.raises(ValueError, match="device='gpu'"):
        load_model("w.safetensors", "gpu")


# --- downloads


@pytest.fixture
def mobile(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What stands for the published mobile_sam.pt."""
    data = bytes(range(256)) * 1200
    facts = published.Published(hashlib.sha256(data).hexdigest(), len(data))
    monkeypatch.setitem(published.BY_FILE_NAME, "mobile_sam.pt", facts)
    return data


def at(monkeypatch: pytest.MonkeyPatch, name: str, *urls: str) -> None:
    monkeypatch.setitem(registry.MODELS, name, replace(registry.MODELS[name], urls=urls))


def test_download_into_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, folders: tuple[Path, Path]
) -> None:
    here, home = folders
    server = FileServer(mobile, broken=1)
    with serve(server) as address:
        at(monkeypatch, "mobile_sam", f"{address}/mobile_sam.pt")
        monkeypatch.setattr("fastsam_core.models.download.time.sleep", lambda seconds: None)
        assert resolve("mobile_sam").read_bytes() == mobile
        assert resolve("mobile_sam.pt") == home / "mobile_sam.pt"
    assert [request is None for request in server.requests] == [True, False]
    assert os.listdir(home) == ["mobile_sam.pt"] and os.listdir(here) == []


def test_download_of_another_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, folders: tuple[Path, Path]
) -> None:
    with serve(FileServer(mobile[:-1] + b"x")) as address:
        at(monkeypatch, "mobile_sam", f"{address}/mobile_sam.pt")
        with pytest.raises(ValueError, match=r"its sha256 is .*, expected "):
            resolve("mobile_sam.pt")
    assert os.listdir(folders[1]) == []


def test_hash_is_not_asked_of_the_users_file(mobile: bytes, folders: tuple[Path, Path]) -> None:
    for folder in folders:
        path = touch(folder, "mobile_sam.pt")
        assert resolve("mobile_sam.pt").resolve() == path
        path.unlink()


def test_second_address_serves_when_the_first_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, mobile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(handler: Any) -> None:
        if handler.path.startswith("/first"):
            reply(handler, b"gone", 404)
        else:
            reply(handler, mobile)

    with serve(answer) as address, caplog.at_level(logging.WARNING, "fastsam_core"):
        at(monkeypatch, "mobile_sam", f"{address}/first/mobile_sam.pt", f"{address}/second/mobile_sam.pt")
        assert resolve("mobile_sam.pt").read_bytes() == mobile
    assert any("answers 404" in record.getMessage() for record in caplog.records)


def test_meta_name_means_metas_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(handler: Any) -> None:
        asked.append(handler.path)
        reply(handler, b"", 404)

    with serve(answer) as address:
        at(monkeypatch, "sam_b", f"{address}/sam_vit_b_01ec64.pth", f"{address}/assets/sam_b.pt")
        with pytest.raises(ConnectionError, match=r"sam_vit_b_01ec64\.pth is neither in .*home.*answers 404"):
            load_model("sam_vit_b_01ec64.pth")
        assert asked == ["/sam_vit_b_01ec64.pth"]
        with pytest.raises(ConnectionError, match=r"save it as .*sam_b\.pt"):
            load_model("sam_b.pt")
        assert asked == ["/sam_vit_b_01ec64.pth"] * 2 + ["/assets/sam_b.pt"]


def test_published_facts_are_plausible() -> None:
    for facts in published.BY_FILE_NAME.values():
        assert facts.sha256 is not None and len(bytes.fromhex(facts.sha256)) == 32
        assert facts.size is not None and facts.size > 4e7
    # Four bytes per parameter, and some for names: a digit lost in a size would show.
    for name, file in (("sam_b", "sam_vit_b_01ec64.pth"), ("sam_l", "sam_vit_l_0b3195.pth")):
        size = published.BY_FILE_NAME[file].size
        values = sum(torch.Size(shape).numel() for shape in checkpoint._expected(name).values())
        assert size is not None and 0 <= size - 4 * values < 300_000
