"""Tests of ONNX files as detectors: the output layouts of YOLO exports, and errors for other networks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core.detect import from_onnx
from small_model import bgr_image
from yolo_files import DetectionModel, expected, make

IMAGE = bgr_image(61, 90)
NAMES = str({index: f"kind {index}" for index in range(5)})


class Session:
    """A stand-in for ONNX Runtime's `InferenceSession` whose network returns `outputs`."""

    def __init__(self, outputs: list[np.ndarray], shape: list[Any], names: str, kind: str) -> None:
        self.outputs, self.shape, self.names, self.kind = outputs, shape, names, kind
        self.seen: list[np.ndarray] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="images", shape=self.shape, type=self.kind)]

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map={"names": self.names})

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen.append(inputs["images"])
        return self.outputs


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that sets what the network in `m.onnx` returns."""
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(b"onnx")

    def set_up(
        outputs: list[np.ndarray], shape: Any = (1, 3, 96, 96), names: str = NAMES, kind: str = "tensor(float)"
    ) -> Session:
        session = Session(outputs, list(shape), names, kind)
        module: Any = ModuleType("onnxruntime")
        module.get_available_providers = lambda: ["CPUExecutionProvider"]
        module.InferenceSession = lambda path, providers: session
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        return session

    return set_up


def raw_output() -> np.ndarray:
    """Return (1, 9, 20): two overlapping boxes of class 1, one of class 3, the rest scored 0, in input pixels."""
    output = np.zeros((1, 9, 20), np.float32)
    output[0, :4, 0] = 48, 48, 32, 33
    output[0, :4, 1] = 48, 48, 32, 30
    output[0, :4, 2] = 40, 60, 16, 20
    output[0, 5, :2] = 0.9, 0.8
    output[0, 7, 2] = 0.7
    return output


def test_raw_outputs_are_suppressed_and_scaled_to_the_image(runtime: Any) -> None:
    session = runtime([raw_output()])
    found = from_onnx("m.onnx")(IMAGE)
    assert found.class_ids.tolist() == [1, 3] and found.names[3] == "kind 3"
    np.testing.assert_allclose(found.scores, [0.9, 0.7])
    # 61 x 90 becomes 65 x 96, which begins at row 15 of the square.
    scale_x, scale_y, top = 96 / 90, 65 / 61, 15
    box = [(48 - 16) / scale_x, (31.5 - top) / scale_y, (48 + 16) / scale_x, (64.5 - top) / scale_y]
    np.testing.assert_allclose(found.boxes[0], box, rtol=1e-5)
    (seen,) = session.seen
    assert seen.shape == (1, 3, 96, 96) and seen.dtype == np.float32 and seen.min() >= 0 and seen.max() <= 1
    assert (seen[0, :, :15] == np.float32(114 / 255)).all() and (seen[0, :, 80:] == np.float32(114 / 255)).all()


def test_options_filter_detections_and_change_the_fingerprint(runtime: Any) -> None:
    runtime([raw_output()])
    assert len(from_onnx("m.onnx", iou=0.99)(IMAGE).boxes) == 3
    assert len(from_onnx("m.onnx", conf=0.75)(IMAGE).boxes) == 1
    assert from_onnx("m.onnx", classes=3)(IMAGE).class_ids.tolist() == [3]
    assert len(from_onnx("m.onnx", max_det=1)(IMAGE).boxes) == 1
    assert from_onnx("m.onnx", names=["a", "b"])(IMAGE).names == {0: "a", 1: "b"}
    first = from_onnx("m.onnx").fingerprint
    assert "sha256=" in first and from_onnx("m.onnx", conf=0.5).fingerprint != first
    assert from_onnx("m.onnx", imgsz=64).fingerprint == first, "the size of the input is fixed"
    session = runtime([raw_output()], ("batch", 3, "height", "width"))
    from_onnx("m.onnx")(IMAGE)
    assert session.seen[0].shape == (1, 3, 448, 640), "the size that YOLO networks are trained with"
    assert from_onnx("m.onnx", imgsz=64).fingerprint != from_onnx("m.onnx", imgsz=96).fingerprint


def test_names_that_are_no_names_by_id_are_refused(runtime: Any) -> None:
    runtime([raw_output()])
    for names in ("dog", {"dog": 0}, 3):  # the letters of a text would become names
        with pytest.raises(TypeError, match=rf"names must be \{{id: name\}} or a list of names, not {names!r}$"):
            from_onnx("m.onnx", names=names)
    runtime([raw_output()], names="'dog'")
    assert from_onnx("m.onnx")(IMAGE).names == {}


def test_mask_coefficients_are_not_read_as_scores(runtime: Any) -> None:
    """In segmentation exports, mask coefficients follow the scores; here they are larger."""
    output = np.concatenate([raw_output(), np.full((1, 8, 20), 5, np.float32)], 1)
    runtime([output, np.zeros((1, 8, 24, 24), np.float32)])
    assert from_onnx("m.onnx")(IMAGE).class_ids.tolist() == [1, 3]


def test_a_small_input_may_give_as_few_boxes_as_channels(runtime: Any) -> None:
    runtime([raw_output()[:, :, :9]])  # as 84 for 64 x 64 pixels and the 80 classes of COCO
    assert from_onnx("m.onnx")(IMAGE).class_ids.tolist() == [1, 3]


def test_network_of_one_class(runtime: Any) -> None:
    runtime([raw_output()[:, [0, 1, 2, 3, 5]]])
    found = from_onnx("m.onnx", names=["thing"])(IMAGE)
    assert found.class_ids.tolist() == [0] and found.scores.tolist() == [np.float32(0.9)]


def test_outputs_with_built_in_nms(runtime: Any) -> None:
    rows = np.array([[[32, 32, 64, 64, 0.5, 4], [0, 15, 96, 80, 0.9, 2], [0, 0, 1, 1, 0.1, 7]]], np.float32)
    session = runtime([rows], ("batch", 3, "height", "width"), names="no names")
    found = from_onnx("m.onnx", imgsz=96)(IMAGE)
    assert found.class_ids.tolist() == [2, 4] and found.names == {}
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    np.testing.assert_allclose(found.boxes[0], [0, 0, 90, 61], atol=1e-4)
    assert session.seen[0].shape == (1, 3, 96, 96)
    # Of a segmentation network, coefficients follow.
    runtime([np.pad(rows, ((0, 0), (0, 0), (0, 8)), constant_values=9), np.zeros((1, 8, 24, 24), np.float32)])
    masked = from_onnx("m.onnx")(IMAGE)
    assert all(map(np.array_equal, masked[:3], found[:3]))


def test_scores_that_are_nan_are_refused(runtime: Any) -> None:
    raw = raw_output()
    raw[0, 6, 3] = np.nan
    rows = np.array([[[32, 32, 64, 64, np.nan, 2], [0, 15, 96, 80, 0.9, 4]]], np.float32)
    for output in (raw, rows):
        runtime([output])
        with pytest.raises(ValueError, match=r"m\.onnx gives scores that are NaN"):
            from_onnx("m.onnx")(IMAGE)


def test_half_precision_networks_get_float16_inputs(runtime: Any) -> None:
    session = runtime([raw_output().astype(np.float16)], kind="tensor(float16)")
    assert len(from_onnx("m.onnx")(IMAGE).boxes) == 2 and session.seen[0].dtype == np.float16


def test_input_of_fixed_size_need_not_be_square(runtime: Any) -> None:
    session = runtime([raw_output()], (1, 3, 64, 96))
    assert len(from_onnx("m.onnx", imgsz=640)(IMAGE).boxes) == 2 and session.seen[0].shape == (1, 3, 64, 96)


@pytest.mark.parametrize(
    ("error", "said"), [(RuntimeError("invalid protobuf\nat 7"), "invalid protobuf$"), (OSError(), "OSError$")]
)
def test_reason_is_given_for_a_file_that_onnxruntime_refuses(runtime: Any, error: Exception, said: str) -> None:
    def refuse(path: str, providers: Any) -> None:
        raise error

    runtime([])
    sys.modules["onnxruntime"].InferenceSession = refuse  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=rf"^m\.onnx can't be run: {said}"):
        from_onnx("m.onnx")


@pytest.mark.parametrize(
    ("outputs", "shape", "kind", "message"),
    [
        ([np.zeros((1, 20, 9))], (1, 3, 96, 96), "tensor(float)", r"gives \(1, 20, 9\)"),
        ([np.zeros((1, 4, 20))], (1, 3, 96, 96), "tensor(float)", r"gives \(1, 4, 20\)"),
        ([np.zeros((1, 6))], (1, 3, 96, 96), "tensor(float)", r"gives \(1, 6\)"),
        ([np.zeros((5, 6))], (1, 3, 96, 96), "tensor(float)", r"gives \(5, 6\)"),
        ([raw_output()], (1, 96, 96, 3), "tensor(float)", "accepted: one image"),
        ([raw_output()], (4, 3, 96, 96), "tensor(float)", "accepted: one image"),
        ([raw_output()], (1, 3, 96, 96), "tensor(uint8)", "accepted: one image"),
    ],
)
def test_other_networks_are_refused(runtime: Any, outputs: Any, shape: Any, kind: str, message: str) -> None:
    runtime(outputs, shape, kind=kind)
    with pytest.raises(ValueError, match=rf"m\.onnx .*{message}"):
        from_onnx("m.onnx")(IMAGE)


def test_missing_file_or_onnxruntime_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such ONNX file: m\.onnx"):
        from_onnx("m.onnx")
    Path("m.onnx").write_bytes(b"onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        from_onnx("m.onnx")


class Exported(torch.nn.Module):
    """The computation of a YOLO export: boxes and scores of all positions in one output."""

    def __init__(self, net: DetectionModel) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for grid, stride in zip(self.net(x), (8, 16, 32), strict=True):
            height, width = grid.shape[2:]
            bins = grid[:, :64].reshape(1, 4, 16, height * width).softmax(2)
            d = (bins * torch.arange(16.0).view(1, 1, 16, 1)).sum(2)
            centre_x = (torch.arange(width) + 0.5).repeat(height)
            centre_y = (torch.arange(height) + 0.5).repeat_interleave(width)
            left, top, right, bottom = d.unbind(1)
            middle = [centre_x + (right - left) / 2, centre_y + (bottom - top) / 2]
            box = torch.stack([*middle, left + right, top + bottom], 1)
            parts.append(torch.cat([box * stride, grid[:, 64:].flatten(2).sigmoid()], 1))
        return torch.cat(parts, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_real_export_gives_the_networks_detections(tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    net = make("detect")
    path = tmp_path / "m.onnx"
    torch.onnx.export(Exported(net).eval(), (torch.zeros(1, 3, 64, 96),), str(path), input_names=["images"])
    image = bgr_image(48, 90)  # 51 x 96 in an input of 64 x 96
    rows, _ = expected(net, image, 96, 0.3)
    found = from_onnx(path, conf=0.3)(image)
    np.testing.assert_allclose(found.boxes, rows[:, :4], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.scores, rows[:, 4], rtol=1e-3)
    assert found.class_ids.tolist() == rows[:, 5].tolist()
