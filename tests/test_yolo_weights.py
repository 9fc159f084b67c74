"""YOLO checkpoints: formats, metadata, folded normalisation, conversion, and errors for other networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fastsam_core.convert_checkpoint import convert_checkpoint
from fastsam_core.detect.yolo.architecture import YOLOV8, Architecture, BlockShape
from fastsam_core.detect.yolo.blocks import Conv
from fastsam_core.detect.yolo.coco_names import COCO_NAMES
from fastsam_core.detect.yolo.flops import gflops
from fastsam_core.detect.yolo.load import OFFICIAL_URLS, load_network
from fastsam_core.detect.yolo.network import Network
from fastsam_core.detect.yolo.weights import Weights, fold_batch_norms, read_weights
from small_model import small_weights
from yolo_files import DetectionModel, IterableSimpleNamespace, make, published_paths, write

NORMALISATION = ("weight", "bias", "running_mean", "running_var")
pytestmark = pytest.mark.once("neither reading a file nor YOLO's layers call an operation")


@pytest.fixture(scope="module")
def net() -> DetectionModel:
    return make("segment")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "home"))


def raw(network: Network) -> list[torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        out = network(torch.rand(1, 3, 64, 96))
    return [value for value in out if isinstance(value, torch.Tensor)]


def test_every_format_gives_the_same_network(net: DetectionModel) -> None:
    half = copy.deepcopy(net).half()
    files = {
        "zip.pt": lambda path: write(path, net),
        "legacy.pt": lambda path: write(path, net, legacy=True),
        "state.pt": lambda path: torch.save(half.state_dict(), path),
        "wrapped.pt": lambda path: torch.save({"epoch": 1, "state_dict": half.state_dict()}, path),
        "prefixed.pt": lambda path: torch.save({f"module.{k}": v for k, v in half.state_dict().items()}, path),
        "bare.pt": lambda path: torch.save(half.model.state_dict(), path),
        "plain.safetensors": lambda path: save_file(half.state_dict(), path),
        "ours.safetensors": lambda path: convert_checkpoint("zip.pt", path),
    }
    expected: list[torch.Tensor] = []
    for name, save in files.items():
        save(Path(name))
        found = raw(read_weights(Path(name)).build_network())
        expected = expected or found
        assert len(found) == len(expected) == 6
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), name


def test_ema_weights_are_preferred(net: DetectionModel) -> None:
    other = make("segment", seed=5)
    path = write(Path("w.pt"), net, ema=copy.deepcopy(other).half())
    assert torch.equal(
        raw(read_weights(path).build_network())[0], raw(read_weights(write(Path("o.pt"), other)).build_network())[0]
    )


def test_pickled_module_without_a_dict_is_read(net: DetectionModel) -> None:
    with published_paths():
        torch.save(net, "w.pt")
    assert read_weights(Path("w.pt")).metadata.names[2] == "kind 2"


def test_names_input_size_and_epsilon_are_read(net: DetectionModel) -> None:
    weights = read_weights(write(Path("w.pt"), net))
    assert weights.metadata.names == {i: f"kind {i}" for i in range(5)}
    assert weights.metadata.imgsz == 96 and weights.metadata.epsilon == 1e-3
    assert len(weights.tensors) == len(net.state_dict())
    settings = IterableSimpleNamespace(imgsz=[480, 640])
    changed = copy.deepcopy(net)
    changed.args = settings
    assert read_weights(write(Path("w.pt"), changed, train_args=None)).metadata.imgsz == 640
    changed.args = {"imgsz": "large"}
    assert read_weights(write(Path("w.pt"), changed, train_args={})).metadata.imgsz is None
    changed.names = ["a", "b", "c", "d", "e"]  # type: ignore[assignment]
    assert read_weights(write(Path("w.pt"), changed)).metadata.names[4] == "e"
    for module in changed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    assert read_weights(write(Path("w.pt"), changed)).metadata.epsilon == 1e-5


def test_default_names_without_metadata() -> None:
    weights = Weights({}, read_weights(write(Path("w.pt"), make())).metadata.__class__())
    assert weights.class_names(80) == COCO_NAMES and COCO_NAMES[0] == "person" and COCO_NAMES[79] == "toothbrush"
    assert weights.class_names(1) == {0: "object"} and weights.class_names(2) == {0: "0", 1: "1"}
    assert len(COCO_NAMES) == 80 and len(set(COCO_NAMES.values())) == 80


def test_folded_convolution_matches_convolution_and_normalisation() -> None:
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4, eps=1e-3)
    for part in (bn.weight, bn.bias, bn.running_mean):
        assert part is not None
        nn.init.normal_(part)
    assert bn.running_var is not None
    nn.init.uniform_(bn.running_var, 0.01, 2)
    state = {f"a.conv.{k}": v for k, v in conv.state_dict().items()} | {
        f"a.bn.{k}": v for k, v in bn.state_dict().items()
    }
    folded = fold_batch_norms(state, 1e-3)
    assert set(folded) == {"a.conv.weight", "a.conv.bias"}
    x = torch.randn(2, 3, 8, 8)
    together = torch.nn.functional.conv2d(x, folded["a.conv.weight"], folded["a.conv.bias"])
    torch.testing.assert_close(together, bn.eval()(conv(x)), rtol=1e-5, atol=1e-5)
    with_wrong_bias = {**state, "a.conv.bias": torch.zeros(3)}
    del state["a.bn.running_var"]
    for wrong in (state, with_wrong_bias):
        with pytest.raises(ValueError, match=r"a\.bn doesn't fit"):
            fold_batch_norms(wrong, 1e-3)


def test_converted_file_holds_tensors_and_metadata(net: DetectionModel) -> None:
    write(Path("w.pt"), net)
    done = convert_checkpoint("w.pt", "out/w.safetensors")
    assert done.path == Path("out/w.safetensors") and done.model == "YOLOv8, segment, 5 classes"
    with safe_open("out/w.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["fastsam_core"])
        assert facts == {
            "format": "yolo",
            "names": {str(i): f"kind {i}" for i in range(5)},
            "imgsz": 96,
            "epsilon": 1e-3,
        }
        assert done.tensors == len(file.keys()) == len(net.state_dict())
        assert file.get_tensor("model.0.conv.weight").dtype == torch.float16
    again = read_weights(done.path)
    assert again.metadata.names == {i: f"kind {i}" for i in range(5)} and again.metadata.imgsz == 96
    assert [path.name for path in Path("out").iterdir()] == ["w.safetensors"]


def test_sam_checkpoints_are_converted_too() -> None:
    torch.save({"model": small_weights()}, "nano.pt")
    done = convert_checkpoint("nano.pt", "nano.safetensors")
    assert done.model == "sam_nano" and done.tensors == len(small_weights())
    from fastsam_core.models.checkpoint import load_model

    assert load_model("nano.safetensors").name == "sam_nano"


def test_invalid_conversions_are_refused(net: DetectionModel) -> None:
    write(Path("w.pt"), net)
    with pytest.raises(ValueError, match=r"to \.safetensors, not to 'w\.pth'"):
        convert_checkpoint("w.pt", "w.pth")
    save_file(net.state_dict(), "s.safetensors")
    with pytest.raises(ValueError, match="the source itself"):
        convert_checkpoint("s.safetensors", "s.safetensors")
    with pytest.raises(FileNotFoundError, match="missing"):
        convert_checkpoint("missing.pt", "x.safetensors")
    torch.save({"a": torch.zeros(1)}, "other.pt")
    with pytest.raises(ValueError, match="Expected the state dict of"):
        convert_checkpoint("other.pt", "x.safetensors")
    assert not Path("x.safetensors").exists()


def change(net: DetectionModel, how: Callable[[DetectionModel], Any]) -> DetectionModel:
    changed = copy.deepcopy(net)
    how(changed)
    return changed


def setting(module_of: Callable[[DetectionModel], Any], **attributes: Any) -> Callable[[DetectionModel], Any]:
    """Return a change that sets attributes of the module that `module_of` gives."""
    return lambda net: vars(module_of(net)).update(attributes)


def _relu(net: DetectionModel) -> None:
    net.model[0].act = nn.ReLU()


def _distances(net: DetectionModel) -> None:
    net.model[22].dfl.conv.weight.data[0, 3] = 7


def _shape(net: DetectionModel) -> None:
    net.model[5].conv = nn.Conv2d(16, 24, 5, bias=False)


def _missing(net: DetectionModel) -> None:
    del net.model[5].conv


def _extra(net: DetectionModel) -> None:
    net.model[5].register_parameter("more", nn.Parameter(torch.zeros(3)))


def _nan(net: DetectionModel) -> None:
    net.model[5].conv.weight.data[3, 2, 1, 0] = float("nan")


def _variance(net: DetectionModel) -> None:
    net.model[5].bn.running_var[0] = -1.0


def _norm(net: DetectionModel) -> None:
    net.model[5].bn = nn.BatchNorm2d(7, eps=1e-3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (_relu, r"model\.0 has act 'ReLU', in YOLOv8 'SiLU': a modified network"),
        (setting(lambda net: net.model[1].conv, stride=(1, 1)), r"model\.1\.conv has stride.*modified network"),
        (
            setting(lambda net: net.model[22].proto.upsample, stride=(1, 1)),
            r"model\.22\.proto\.upsample has stride.*modified network",
        ),
        (
            setting(lambda net: net.model[9].m, kernel_size=3),
            r"model\.9\.m has kernel_size 3, in YOLOv8 5: a modified network",
        ),
        (
            setting(lambda net: net.model[10], mode="bilinear"),
            r"model\.10 has mode 'bilinear', in YOLOv8 'nearest': a modified network",
        ),
        (
            setting(lambda net: net.model[4].m[1], add=False),
            r"model\.4\.m\.1 has add False, in YOLOv8 True: a modified network",
        ),
        (
            setting(lambda net: net.model[12].m[0], add=True),
            r"model\.12\.m\.0 has add True, in YOLOv8 False: a modified network",
        ),
        (setting(lambda net: net.model[1].bn, eps=1e-4), "different or impossible epsilons"),
        (setting(lambda net: net.model[1].bn, eps=[1e-3]), "different or impossible epsilons"),
        (_distances, "is not 0, 1, 2"),
        (lambda net: net.model.__setitem__(9, nn.Identity()), "layer 9 is a Identity, in YOLOv8 a SPPF"),
        (lambda net: net.model.__delitem__(22), "22 layers that ends with C2f"),
        (lambda net: net.model.__setitem__(22, nn.Identity()), "ends with Identity"),
        (_shape, r"1 of another shape: model\.5\.conv\.weight \(24, 16, 5, 5\) instead of \(24, 16, 3, 3\)"),
        (_missing, r"model\.5\.bn doesn't fit"),
        (_extra, r"1 unexpected: model\.5\.more"),
        (_norm, r"model\.5\.bn doesn't fit"),
        (_nan, r"NaN or infinite numbers in 1 tensor, such as model\.5\.conv\.weight"),
        (_variance, r"NaN or infinite numbers in 2 tensors, such as model\.5\.conv\.weight"),
    ],
)
def test_modified_networks_are_refused(net: DetectionModel, how: Callable[[DetectionModel], Any], message: str) -> None:
    write(Path("w.pt"), change(net, how))
    with pytest.raises(ValueError, match=rf"w\.pt.*{message}"):
        load_network("w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "it holds no tensors of a YOLOv8, YOLO11, YOLO12 or YOLO26 network, but nothing"),
        ({"model": {"a": torch.zeros(1)}}, "no tensors of a YOLOv8, YOLO11, YOLO12 or YOLO26 network, but 'a'"),
        ([1], "holds a list"),
        ({"0.conv.weight": torch.zeros(8, 3, 3, 3)}, r"convolution model\.22\.cv2\.0\.2\.weight is missing"),
        ({"0.conv.weight": torch.zeros(8), "2.cv1.conv.weight": torch.zeros(0, 8, 1, 1)}, r"model\.2\S* is .*empty"),
        ({"0.conv.weight": torch.zeros(8, 3, 3, 3, dtype=torch.int8)}, r"0\.conv\.weight is torch\.int8; weights"),
        (dict.fromkeys(("0.conv.weight", *(f"0.bn.{key}" for key in NORMALISATION)), torch.ones(())), "doesn't fit"),
    ],
)
def test_files_without_a_yolo_network_are_refused(content: Any, message: str) -> None:
    torch.save(content, "w.pt")
    with pytest.raises(ValueError, match=rf"w\.pt.*{message}"):
        load_network("w.pt")


def test_pickled_module_of_another_class_is_refused() -> None:
    with published_paths():
        torch.save({"model": nn.Linear(2, 2)}, "w.pt")
    with pytest.raises(ValueError, match=r"holds a torch\.nn\.modules\.linear\.Linear, which is not a YOLOv8"):
        load_network("w.pt")


def test_damaged_metadata_is_refused(net: DetectionModel) -> None:
    epsilons = ("0.0", "1.0", "-0.5", "NaN", "Infinity", '"x"')
    damaged = [f'{{"names": {{}}, "imgsz": 96, "epsilon": {epsilon}}}' for epsilon in epsilons]
    for text in ("{", "[]", '{"names": 3}', '{"names": {}, "imgsz": 96}', "[" * 100_000, *damaged):
        save_file(net.state_dict(), "w.safetensors", metadata={"fastsam_core": text})
        with pytest.raises(ValueError, match=r"w\.safetensors: its metadata are damaged"):
            read_weights(Path("w.safetensors"))


def test_impossible_input_size_in_metadata_is_ignored(net: DetectionModel) -> None:
    for imgsz in ("null", "0", "-32", "1e9", "Infinity", '"x"'):
        text = f'{{"names": {{}}, "imgsz": {imgsz}, "epsilon": 0.001}}'
        save_file(net.state_dict(), "w.safetensors", metadata={"fastsam_core": text})
        assert read_weights(Path("w.safetensors")).metadata.imgsz is None


# Width and depth multiples, maximum channels, and published parameters: detection, and segmentation in millions.
SIZES = {"n": (0.25, 1 / 3, 1024, 3_157_200, 3.4), "s": (0.5, 1 / 3, 1024, 11_166_560, 11.8)}
SIZES |= {"m": (0.75, 2 / 3, 768, 25_902_640, 27.3), "l": (1.0, 1.0, 512, 43_691_520, 46.0)}
SIZES |= {"x": (1.25, 1.0, 512, 68_229_648, 71.8)}
# Published GFLOPs at 640 of detection and segmentation.
GFLOPS = {"n": (8.7, 12.6), "s": (28.6, 42.6), "m": (78.9, 110.2), "l": (165.2, 220.5), "x": (257.8, 344.1)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("segments", [False, True])
def test_parameters_and_gflops_match_published_numbers(size: str, segments: bool) -> None:
    """Networks of the published architecture have the published numbers of parameters and operations."""
    width, depth, most, *parameters = SIZES[size]

    def channels(count: int) -> int:
        return int(-(-min(count, most) * width // 8) * 8)

    plan = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (64, 128, 128, 256, 256, 512, 512, 1024, 1024, 1024), strict=True))
    plan |= {12: 512, 15: 256, 16: 256, 18: 512, 19: 512, 21: 1024}
    widths = {place: channels(count) for place, count in plan.items()}
    repeats = {2: 3, 4: 6, 6: 6, 8: 3, 12: 3, 15: 3, 18: 3, 21: 3}
    first = widths[15]
    sizes = Architecture(
        family=YOLOV8,
        out_channels=widths,
        hidden_channels={place: widths[place] // 2 for place in (*repeats, 9)},
        blocks={place: BlockShape("bottleneck", widths[place] // 2) for place in repeats},
        depths={place: max(round(count * depth), 1) for place, count in repeats.items()},
        num_bins=16,
        num_classes=80,
        box_channels=max(16, first // 4, 64),
        score_channels=max(first, 80),
        mask_channels=max(first // 4, 32) if segments else 0,
        num_coefficients=32 if segments else 0,
        prototype_channels=channels(256) if segments else 0,
    )
    with torch.device("meta"):
        network = Network(sizes)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert Architecture.from_shapes(shapes) == sizes and sizes.task == ("segment" if segments else "detect")
    count = sum(value.numel() for value in network.parameters())
    # Published counts are before folding: two numbers per normalised channel instead of one, and 16 fixed DFL weights.
    folded = [module.conv for module in network.modules() if isinstance(module, Conv)]
    count += sum(conv.out_channels for conv in folded) + 16
    assert count == parameters[0] if not segments else count / 1e6 == pytest.approx(parameters[1], rel=0.003)
    published = GFLOPS[size][segments]
    if segments:
        # The published numbers count each weight of the transposed convolution at all four positions that share it.
        published -= 3 * 2 * network.model[-1].proto.upsample.weight.numel() * 80 * 80 / 1e9
    assert gflops(network, 640) == pytest.approx(published, rel=0.01)


# --- names and files


def test_checkpoints_are_found_locally_or_downloaded_by_name(
    net: DetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, urls: Any) -> Path:
        asked.append((name, *urls))
        raise ConnectionError("no network")

    monkeypatch.setattr("fastsam_core.models.checkpoint_paths.download_official", fetch)
    for name in ("yolov8n.pt", "yolov8x-seg", "FastSAM.pt", "FastSAM-s.pt", "yolo11s-seg.pt", "yolo12n", "yolo26m"):
        with pytest.raises(ConnectionError):
            load_network(name)
    expected = ["v8.2.0/yolov8n.pt", "v8.2.0/yolov8x-seg.pt", "v8.2.0/FastSAM-x.pt", "v8.2.0/FastSAM-s.pt"]
    expected += ["v8.3.0/yolo11s-seg.pt", "v8.3.0/yolo12n.pt", "v8.4.0/yolo26m.pt"]
    assert asked == [
        (path.split("/")[1], f"https://github.com/ultralytics/assets/releases/download/{path}") for path in expected
    ]
    assert len(OFFICIAL_URLS) == 37
    write(Path("yolov8n.pt"), net)
    assert load_network("yolov8n.pt").path == Path("yolov8n.pt")
    (tmp_path / "home").mkdir()
    write(tmp_path / "home" / "mine.pt", net)
    assert load_network("mine.pt").path == tmp_path / "home" / "mine.pt"
    with pytest.raises(FileNotFoundError, match=r"did you mean 'yolov8n\.pt'"):
        load_network("yolov8nn.pt")
    with pytest.raises(ValueError, match="is not a file but a folder"):
        load_network(str(tmp_path / "home"))


def test_input_size_comes_from_the_file_or_its_name(net: DetectionModel) -> None:
    assert load_network(write(Path("w.pt"), net)).imgsz == 96
    torch.save(net.state_dict(), "state.pt")
    torch.save(net.state_dict(), "FastSAM-mine.pt")
    assert load_network("state.pt").imgsz == 640 and load_network("FastSAM-mine.pt").imgsz == 1024
