"""Checkpoints of YOLO11, YOLO12 and YOLO26: results, file formats, fused models, modified networks, sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastsam_core import YOLO
from fastsam_core.convert_checkpoint import convert_checkpoint
from fastsam_core.detect import load_detector
from fastsam_core.detect.yolo.architecture import YOLO11, YOLO12, YOLO26, Architecture, BlockShape
from fastsam_core.detect.yolo.flops import gflops
from fastsam_core.detect.yolo.load import load_network
from fastsam_core.detect.yolo.network import Network
from small_model import bgr_image
from yolo_files import DetectionModel, expected, make, write
from yolo_layers import Conv

pytestmark = pytest.mark.once("it calls the operations that the tests of YOLOv8 call")
QUIET: dict[str, Any] = {"save": False, "verbose": False, "imgsz": 96, "conf": 0.3}
KINDS = [(family, task) for family in (11, 12, 26) for task in ("detect", "segment")]


@pytest.fixture(scope="module")
def nets() -> dict[tuple[int, str], DetectionModel]:
    return {(family, task): make(task, family=family) for family, task in KINDS}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(path: Path | str, net: DetectionModel, shape: tuple[int, int] = (61, 90), **options: Any) -> int:
    """Assert that the file gives the network's objects; return how many there are."""
    image = bgr_image(*shape)
    rows, masks = expected(net, image, 96, **{"conf": 0.3, **options})
    (result,) = YOLO(path)(image, **{**QUIET, **options})
    assert len(rows) > 3
    np.testing.assert_allclose(np.asarray(result.boxes.data), rows, rtol=1e-4, atol=1e-3)
    assert (masks is None) == (result.masks is None)
    if masks is not None:
        found = np.asarray(result.masks.data).astype(bool)
        # A logit within rounding of zero may fall on either side.
        assert (found != masks).sum() <= 2e-4 * masks.sum() and masks.sum() > 1000
    return len(rows)


@pytest.mark.parametrize("shape", [(61, 90), (200, 50)])
@pytest.mark.parametrize("kind", KINDS)
def test_results_match_reference(
    nets: dict[tuple[int, str], DetectionModel], kind: tuple[int, str], shape: tuple[int, int]
) -> None:
    path = write(Path("w.pt"), nets[kind])
    check(path, nets[kind], shape)
    network = YOLO(path).model
    assert network.architecture.family is {11: YOLO11, 12: YOLO12, 26: YOLO26}[kind[0]]
    assert network.architecture.task == kind[1] and not network.architecture.end_to_end


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_network(
    nets: dict[tuple[int, str], DetectionModel], kind: tuple[int, str]
) -> None:
    net = nets[kind]
    write(Path("w.pt"), net)
    torch.save(net.state_dict(), "state.pt")
    save_file(net.state_dict(), "state.safetensors")
    assert convert_checkpoint("w.pt", "converted.safetensors").model == f"YOLO{kind[0]}, {kind[1]}, 5 classes"
    for name in ("state.pt", "state.safetensors", "converted.safetensors"):
        check(name, net)


def fused(net: DetectionModel) -> DetectionModel:
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Conv):
            module.fuse()
    return net.half().float()  # rounded, as files store half precision


@pytest.mark.parametrize("kind", [(8, "segment"), *KINDS])
def test_fused_models_are_read(nets: dict[tuple[int, str], DetectionModel], kind: tuple[int, str]) -> None:
    net = fused(nets.get(kind) or make(kind[1]))
    check(write(Path("w.pt"), net), net)


@pytest.mark.parametrize(("task", "seed"), [("detect", 2), ("segment", 0)])
def test_model_with_one_to_one_branches_only_keeps_duplicates(task: str, seed: int) -> None:
    net = make(task, family=26, seed=seed)
    head: Any = net.model[-1]
    head.cv2 = head.cv3 = head.cv4 = None
    if task == "segment":
        head.proto.semseg = None
    net = fused(net)
    count = check(write(Path("w.pt"), net), net)
    assert YOLO("w.pt").model.architecture.end_to_end
    check("w.pt", net, max_det=4)
    assert check("w.pt", net, conf=0.2, agnostic_nms=True) < check("w.pt", net, conf=0.2)
    plain, same, few = (
        YOLO("w.pt")(bgr_image(61, 90), **QUIET, **options)[0].boxes.data
        for options in ({}, {"iou": 0.0}, {"classes": [2]})
    )
    assert torch.equal(same, plain)
    assert 0 < len(few) < count and torch.equal(few, plain[plain[:, 5] == 2])


def test_model_and_checkpoint_are_the_same_detector(nets: dict[tuple[int, str], DetectionModel]) -> None:
    for family in (11, 26):
        path = write(Path("w.pt"), nets[family, "detect"])
        detector, same = (load_detector(model, conf=0.3, imgsz=96) for model in (path, YOLO(path)))
        assert detector.fingerprint.startswith(f"yolo{family} sha256=") and same.fingerprint == detector.fingerprint
        found, expected = same(bgr_image(61, 90)), detector(bgr_image(61, 90))
        assert len(found.boxes) > 3 and all(map(np.array_equal, found[:3], expected[:3]))


def setting(module_of: Callable[[Any], Any], **attributes: Any) -> Callable[[Any], Any]:
    """Return a change that sets attributes of the module that `module_of` gives."""
    return lambda layers: vars(module_of(layers)).update(attributes)


def _without_activation(layers: Any) -> None:
    layers[0].act = nn.Identity()


def _with_activation(layers: Any) -> None:
    layers[10].m[0].attn.proj.act = nn.SiLU()


def _other_layer(layers: Any) -> None:
    layers[6] = nn.Identity()


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (11, _without_activation, r"model\.0 has act 'Identity', in YOLO11 'SiLU'"),
        (11, _with_activation, r"model\.10\.m\.0\.attn\.proj has act 'SiLU', in YOLO11 'Identity'"),
        (11, setting(lambda layers: layers[10].m[0].attn, num_heads=1), r"num_heads 1, in YOLO11 2"),
        (11, setting(lambda layers: layers[10].m[0], add=False), r"model\.10\.m\.0 has add False, in YOLO11 True"),
        (11, setting(lambda layers: layers[6].m[0].m[1], add=False), r"model\.6\.m\.0\.m\.1 has add False"),
        (11, setting(lambda layers: layers[13].m[0], add=False), r"model\.13\.m\.0 has add False, in YOLO11 True"),
        (11, setting(lambda layers: layers[9], add=True), r"model\.9 has add True, in YOLO11 False"),
        (26, setting(lambda layers: layers[9], add=False), r"model\.9 has add False, in YOLO26 True"),
        (26, setting(lambda layers: layers[9], n=2), r"model\.9 has n 2, in YOLO26 3"),
        (26, setting(lambda layers: layers[22].m[0][0], add=False), r"model\.22\.m\.0\.0 has add False"),
        (26, _other_layer, r"layer 6 is a Identity, in YOLO11 a C3k2: another network"),
        (12, _other_layer, r"layer 6 is a Identity, in YOLO12 a A2C2f: another network"),
        (12, setting(lambda layers: layers[6].m[0][1].attn, area=2), r"m\.0\.1\.attn has area 2, in YOLO12 4"),
        (12, setting(lambda layers: layers[8].m[0][0].attn, area=4), r"m\.0\.0\.attn has area 4, in YOLO12 1"),
        (12, setting(lambda layers: layers[8].m[0][0].attn, num_heads=1), r"num_heads 1, in YOLO12 2"),
        (12, setting(lambda layers: layers[11].m[1].m[0], add=False), r"model\.11\.m\.1\.m\.0 has add False"),
    ],
)
def test_modified_networks_are_refused(
    nets: dict[tuple[int, str], DetectionModel], family: int, change: Callable[[Any], Any], message: str
) -> None:
    net = copy.deepcopy(nets[family, "detect"])
    change(net.model)
    write(Path("w.pt"), net)
    with pytest.raises(ValueError, match=rf"w\.pt.*{message}"):
        load_network("w.pt")


def test_tensors_that_fit_no_attention_or_residual_are_refused(
    nets: dict[tuple[int, str], DetectionModel],
) -> None:
    state = nets[26, "detect"].state_dict()
    for name, side in (("model.9.cv2.conv.weight", 0), ("model.10.cv1.conv.weight", 0)):
        changed = dict(state)
        changed[name] = torch.cat([state[name], state[name][:2]], side)
        bn = name.replace("conv.weight", "bn.")
        for key in ("weight", "bias", "running_mean", "running_var"):
            changed[bn + key] = torch.cat([state[bn + key], state[bn + key][:2]])
        save_file(changed, "w.safetensors")
        with pytest.raises(ValueError, match=r"w\.safetensors: .*(layer 9 adds its 256|129 channels can't be divided)"):
            load_network("w.safetensors")


# Width and depth multiples and maximum channels of the sizes; millions of parameters and GFLOPs at 640 as published,
# after folding, of YOLO11 and YOLO26, detection and segmentation.
SIZES = {
    "n": (0.25, 0.5, 1024),
    "s": (0.5, 0.5, 1024),
    "m": (1.0, 0.5, 512),
    "l": (1.0, 1.0, 512),
    "x": (1.5, 1.0, 512),
}
PUBLISHED = {
    11: {"n": (2.6, 6.5), "s": (9.4, 21.5), "m": (20.1, 68.0), "l": (25.3, 86.9), "x": (56.9, 194.9)},
    26: {"n": (2.4, 5.4), "s": (9.5, 20.7), "m": (20.4, 68.2), "l": (24.8, 86.4), "x": (55.7, 193.9)},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", [11, 26])
def test_parameters_and_gflops_match_published_numbers(family: int, size: str) -> None:
    width, depth, most = SIZES[size]

    def channels(count: int) -> int:
        return int(-(-min(count, most) * width // 8) * 8)

    plan = (64, 128, 256, 256, 512, 512, 512, 1024, 1024, 1024, 1024)
    out_channels = {index: channels(count) for index, count in enumerate(plan)}
    out_channels |= {index: channels(count) for index, count in {13: 512, 16: 256, 17: 256, 19: 512, 20: 512}.items()}
    out_channels[22] = channels(1024)
    stages = {index: out_channels[index] // (4 if index in (2, 4) else 2) for index in (2, 4, 6, 8, 13, 16, 19, 22)}
    with_attention = {22} if family == 26 else set()
    # Of large networks, all stages have the larger blocks.
    plain = set() if size in "mlx" else {2, 4} if family == 26 else {2, 4, 13, 16, 19}

    def block(index: int) -> BlockShape:
        inner = stages[index] // 2
        if index in with_attention:
            return BlockShape("attention", inner)
        return BlockShape("bottleneck", inner) if index in plain else BlockShape("cross_stage", inner, 2)

    repeats = max(round(2 * depth), 1)
    first = out_channels[16]
    sizes = Architecture(
        family=YOLO26 if family == 26 else YOLO11,
        out_channels=out_channels,
        hidden_channels={**stages, 9: out_channels[9] // 2, 10: out_channels[10] // 2},
        depths={index: 1 if index in with_attention else repeats for index in (*stages, 10)},
        blocks={index: block(index) for index in stages},
        num_bins=1 if family == 26 else 16,
        num_classes=80,
        box_channels=max(16, first // 4, 4 if family == 26 else 64),
        score_channels=max(first, 80),
    )
    with torch.device("meta"):
        network = Network(sizes)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert Architecture.from_shapes(shapes) == sizes
    millions, published_gflops = PUBLISHED[family][size]
    count = sum(value.numel() for value in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
    # The published numbers have the attention's products too.
    assert gflops(network, 640) == pytest.approx(published_gflops, rel=0.02)
