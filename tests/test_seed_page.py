"""The SAM examples of the Ultralytics page, with nothing changed but the import (and `yolo` to `fastsam`).

Checkpoints hold the golden recipe's weights with the bias of the IoU head raised, so that masks pass the default
filter of predicted IoU > 0.25. Segmenting everything decodes up to 20,480 prompts in these examples, which takes
minutes on a CPU. One slow test does so with the real SAM-b. The others use a network of the same classes with small
dimensions, and a stand-in for the mask decoder that draws discs.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam_core import Results, cli
from fastsam_core.detect.yolo.architecture import YOLOV8, Architecture, BlockShape
from fastsam_core.detect.yolo.network import Network
from fastsam_core.models import checkpoint, registry
from fastsam_core.models.image_encoder import ImageEncoderViT, sam_vit
from fastsam_core.models.sam_model import SamModel
from golden_recipe import fill_state_dict
from small_model import bgr_image
from yolo_files import make, write

ZIDANE = Path("ultralytics/assets/zidane.jpg")

PROMPTS = """
from ultralytics import SAM
model = SAM("sam_b.pt")
model.info()
model("ultralytics/assets/zidane.jpg", bboxes=[439, 437, 524, 709])
model("ultralytics/assets/zidane.jpg", points=[900, 370], labels=[1])
"""
EVERYTHING = """
from ultralytics import SAM
model = SAM("sam_b.pt")
model.info()
model("path/to/image.jpg")
"""
COMMAND = "yolo predict model=sam_b.pt source=path/to/image.jpg"
PREDICTOR = """
from ultralytics.models.sam import Predictor as SAMPredictor
overrides = dict(conf=0.25, task="segment", mode="predict", imgsz=1024, model="mobile_sam.pt")
predictor = SAMPredictor(overrides=overrides)
predictor.set_image("ultralytics/assets/zidane.jpg")
predictor.set_image(cv2.imread("ultralytics/assets/zidane.jpg"))
results = predictor(bboxes=[439, 437, 524, 709])
boxed = results
results = predictor(points=[900, 370], labels=[1])
predictor.reset_image()
"""
MORE_ARGUMENTS = """
from ultralytics.models.sam import Predictor as SAMPredictor
overrides = dict(conf=0.25, task="segment", mode="predict", imgsz=1024, model="mobile_sam.pt")
predictor = SAMPredictor(overrides=overrides)
results = predictor(source="ultralytics/assets/zidane.jpg", crop_n_layers=1, points_stride=64)
"""
COMPARISON = """
from ultralytics import SAM
model = SAM("sam_b.pt")
model.info()
model("ultralytics/assets")
model = SAM("mobile_sam.pt")
model.info()
model("ultralytics/assets")
"""
COMPARISON_WITH_YOLO = """
from ultralytics import SAM, YOLO, FastSAM
model = FastSAM("FastSAM-s.pt")
model.info()
model("ultralytics/assets")
fastsam = model
model = YOLO("yolov8n-seg.pt")
model.info()
model("ultralytics/assets")
"""
ANNOTATE = """
from ultralytics.data.annotator import auto_annotate
auto_annotate(data="path/to/images", det_model="yolov8x.pt", sam_model="sam_b.pt")
"""


def run(example: str) -> dict[str, Any]:
    """Run an example with its import changed. Return the variables that it defines."""
    names: dict[str, Any] = {"cv2": cv2}
    exec(example.replace("from ultralytics", "from fastsam_core"), names)
    return names


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the images that the examples name, under their relative paths."""
    folder = tmp_path_factory.mktemp("images")
    for name, height, width in (
        ("ultralytics/assets/zidane.jpg", 720, 1280),
        ("ultralytics/assets/bus.jpg", 1080, 810),
        ("path/to/image.jpg", 480, 640),
        ("path/to/images/1.jpg", 48, 64),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), bgr_image(height, width))
    return folder


@pytest.fixture
def workdir(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the images; point FASTSAM_HOME, where checkpoints are looked up, to a new one."""
    shutil.copytree(images, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "home"))
    return tmp_path


def write_checkpoint(name: str, target: Path) -> None:
    """Write the recipe's weights for a model of the registry, shifted to predict IoUs from about 0.3 to 1."""
    state = fill_state_dict(checkpoint._build_uninitialised(registry.MODELS[name]).state_dict())
    state["mask_decoder.iou_prediction_head.layers.2.bias"] += 0.7
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.pt"
    write_checkpoint("mobile_sam", path)
    return path


@pytest.fixture(scope="module")
def sam_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam_b") / "sam_b.pt"
    write_checkpoint("sam_b", path)
    return path


@pytest.fixture
def small_sam_b(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace `sam_b` by a miniature network, with its checkpoint in the current folder."""

    def encoder() -> ImageEncoderViT:
        return sam_vit(16, 2, 2, (1,), out_chans=16)

    row = dataclasses.replace(registry.MODELS["sam_b"], encoder=encoder, embed_dim=16, decoder_mlp_dim=32)
    monkeypatch.setitem(registry.MODELS, "sam_b", row)
    checkpoint._expected_shapes.cache_clear()
    write_checkpoint("sam_b", workdir / "sam_b.pt")
    yield
    checkpoint._expected_shapes.cache_clear()


@pytest.fixture
def discs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace `decode_points`: every 97th point is the centre of a disc. Return the number of points of each call."""
    seen: list[int] = []

    def decode_points(
        self: SamModel, embedding: Any, points: Tensor, labels: Tensor, iou_threshold: float | None = None
    ) -> tuple[Tensor, Callable[[Any, Any], Tensor]]:
        assert points.shape[1:] == (1, 2) and labels.shape == points.shape[:2]
        first = sum(seen)
        seen.append(len(points))
        iou = torch.zeros(len(points), 3)
        iou[(first + torch.arange(len(points))) % 97 == 0, 1] = 0.95
        side = self.image_size // 4
        y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")

        def logits(point_index: Any, mask_index: Any) -> Tensor:
            middles = points[torch.as_tensor(point_index, dtype=torch.long), 0] / 4
            distance = torch.hypot(x - middles[:, 0, None, None], y - middles[:, 1, None, None])
            return (10 - distance) * 50

        return iou, logits

    monkeypatch.setattr(SamModel, "decode_points", decode_points)
    return seen


def check(result: Results, shape: tuple[int, int], masks: int | None = None, dtype: torch.dtype = torch.bool) -> None:
    assert result.orig_shape == shape
    assert result.masks is not None and result.boxes is not None
    assert len(result) == len(result.masks) == len(result.boxes) > 0
    assert masks is None or len(result) == masks
    data = result.masks.data
    assert tuple(data.shape) == (len(result), *shape) and data.dtype == dtype
    assert bool(data.flatten(1).any(1).all())


def test_sam_with_box_and_point_prompts(workdir: Path, small_sam_b: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = run(PROMPTS)["model"]
    said = capsys.readouterr()
    assert "171,422 parameters" in said.out
    assert said.err.count(f"{ZIDANE.resolve()}: 720x1280 1 mask,") == 2
    assert not (workdir / "runs").exists()
    check(model.predictor.results[0], (720, 1280), masks=1)


@pytest.mark.slow
@pytest.mark.once("the small networks of this file take the same steps")
def test_segment_everything_with_sam_b(
    workdir: Path, sam_b: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decode all 1,024 points with the real network. Its masks are too noisy for the stability filter."""
    monkeypatch.setenv("FASTSAM_HOME", str(sam_b.parent))
    assert cli.main(shlex.split(COMMAND)[1:]) == 0
    said = capsys.readouterr()
    assert "480x640 0 masks" in said.out + said.err
    assert (workdir / "runs" / "segment" / "predict" / "image.jpg").is_file()


def test_predictor_with_set_image_and_prompts(workdir: Path, mobile_sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSAM_HOME", str(mobile_sam.parent))
    names = run(PREDICTOR)
    for results in (names["boxed"], names["results"]):
        assert len(results) == 1
        check(results[0], (720, 1280), masks=1)
    assert names["predictor"].features is None
    assert (workdir / "runs" / "segment" / "predict").is_dir()


def test_segment_everything(
    workdir: Path, small_sam_b: None, discs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = run(EVERYTHING)["model"]
    assert sum(discs) == 32 * 32
    assert "480x640" in capsys.readouterr().err
    check(model.predictor.results[0], (480, 640))
    assert not (workdir / "runs").exists()


def test_segment_everything_from_the_command_line(
    workdir: Path, small_sam_b: None, discs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(COMMAND.replace("yolo", "fastsam"))
    assert program == "fastsam" and cli.main(words) == 0
    assert sum(discs) == 32 * 32
    folder = workdir / "runs" / "segment" / "predict"
    assert f"Results saved to {folder}" in capsys.readouterr().out
    drawn = cv2.imread(str(folder / "image.jpg"))
    assert drawn.shape == (480, 640, 3)
    assert np.abs(drawn.astype(int) - bgr_image(480, 640)).mean() > 1


def test_segment_everything_with_crops_and_points_stride(
    workdir: Path, mobile_sam: Path, discs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSAM_HOME", str(mobile_sam.parent))
    (result,) = run(MORE_ARGUMENTS)["results"]
    assert sum(discs) == 5 * 64 * 64
    check(result, (720, 1280))


def test_model_comparison_example(
    workdir: Path, mobile_sam: Path, small_sam_b: None, discs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSAM_HOME", str(mobile_sam.parent))
    model = run(COMPARISON)["model"]
    assert sum(discs) == 2 * 2 * 32 * 32
    assert model.predictor.seen == 2
    check(model.predictor.results[0], (720, 1280))


def test_model_comparison_with_yolo_example(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(workdir / "FastSAM-s.pt", make("segment", nc=1))
    write(workdir / "yolov8n-seg.pt", make("segment"))
    names = run(COMPARISON_WITH_YOLO)
    said = capsys.readouterr()
    assert said.out.count("GFLOPs") == 2 and said.err.count("image 2/2") == 2
    for key in ("fastsam", "model"):
        assert names[key].predictor.seen == 2
        check(names[key].predictor.results[0], (720, 1280), dtype=torch.uint8)
    assert not (workdir / "runs").exists()


def write_yolo(target: Path) -> None:
    """Write a narrow YOLOv8 network for COCO's classes, with seeded weights that score boxes above 0.25."""
    widths = dict.fromkeys((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 18, 19, 21), 8)
    stages = YOLOV8.indices("C2f")
    sizes = Architecture(
        family=YOLOV8,
        out_channels=widths,
        hidden_channels=dict.fromkeys((*stages, 9), 4),
        depths=dict.fromkeys(stages, 1),
        blocks=dict.fromkeys(stages, BlockShape("bottleneck", 4)),
        num_bins=16,
        num_classes=80,
        box_channels=8,
        score_channels=8,
    )
    torch.manual_seed(0)
    state = Network(sizes).state_dict()
    for scale in range(3):
        state[f"model.22.cv3.{scale}.2.bias"][:] = -6.0
        state[f"model.22.cv3.{scale}.2.bias"][[0, 56]] = 0.5
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)


def test_auto_annotate_writes_label_files(
    workdir: Path, small_sam_b: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_yolo(workdir / "home" / "yolov8x.pt")
    monkeypatch.chdir(workdir)
    with caplog.at_level("INFO", logger="fastsam_core"):
        run(ANNOTATE)
    labels = workdir / "path" / "to" / "images_auto_annotate_labels"
    lines = (labels / "1.txt").read_text().splitlines()
    assert len(lines) > 0 and {line.split()[0] for line in lines} <= {"0", "56"}
    for line in lines:
        values = [float(word) for word in line.split()[1:]]
        assert len(values) >= 6 and len(values) % 2 == 0 and all(0 <= value <= 1 for value in values)
    assert "1 label file" in caplog.text and ("person" in caplog.text or "chair" in caplog.text)
