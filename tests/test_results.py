"""Results: the attributes and methods of Ultralytics' class, and those that this package adds."""

from __future__ import annotations

import copy
import csv
import io
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import scene
from fastsam_core.results import Boxes, Masks, Results

NAMES = {0: "person", 1: "car", 2: "person", 3: "a/b"}


@pytest.fixture
def result() -> Results:
    return scene.results()


# --- results as a container ---


def test_results_attributes(result: Results) -> None:
    assert result.orig_shape == (48, 64) and result.path == "/images/cat.jpg"
    assert result.names == {0: "0", 1: "1", 2: "2", 3: "3"}
    assert result.speed == {"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0}
    assert result.probs is result.keypoints is result.obb is result.save_dir is None
    assert len(result) == 4
    assert result.point_coords.shape == (4, 1, 2) and result.crop_boxes.shape == (4, 4)
    assert set(Results(scene.image(), "a", {}).speed.values()) == {None}


def test_empty_results_in_every_method() -> None:
    nothing = Results(scene.image(), "a.jpg", {}, torch.zeros(0, 6))
    assert nothing.masks is None and len(nothing) == 0
    filtered = scene.results()[[]]
    assert filtered.masks is not None and filtered.masks.shape == (0, 48, 64)
    for empty in (nothing, filtered, nothing.new()):
        assert empty.rows().shape == (0, 6)
        assert empty.verbose() == "(no detections), "
        assert empty.summary() == empty.to_dicts() == empty.to_coco() == list(empty) == []
        assert empty.to_csv() == "" and json.loads(empty.to_json()) == []
        assert empty.to_sa1b()["annotations"] == []
        np.testing.assert_array_equal(empty.plot(), empty.orig_img)


@pytest.mark.parametrize(
    "index", [2, slice(2, 3), [2], torch.tensor([False, False, True, False]), np.array([2]), (np.array([2]),)]
)
def test_indexing_selects_every_part(result: Results, index: Any) -> None:
    chosen = result[index]
    assert len(chosen) == 1 and chosen.boxes is not None and chosen.masks is not None
    assert chosen.boxes.cls.tolist() == [2] and chosen.masks.is_rle
    np.testing.assert_array_equal(chosen.masks.data, scene.masks()[[2]])
    assert chosen.predicted_iou.tolist() == [0.75]
    assert chosen.stability_score.tolist() == pytest.approx([0.98])
    assert chosen.point_coords.tolist() == [[[55, 4]]] and chosen.crop_boxes.tolist() == [[0, 0, 64, 48]]
    assert chosen.names == result.names and len(result) == 4


def test_indexing_selects_ragged_points() -> None:
    points = [torch.ones(2, 2), torch.ones(1, 2) * 3]
    result = Results(scene.image(), "a", {}, torch.zeros(2, 6), point_coords=points)
    assert [one.tolist() for one in result[[1]].point_coords] == [[[3, 3]]]
    arrays = [np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]])]
    kept = Results(scene.image(), "a", {}, torch.zeros(2, 6), point_coords=arrays)[[1]].point_coords
    assert [one.tolist() for one in kept] == [[[2, 2]]]
    boxes, single = Boxes(torch.zeros(2, 6), (48, 64)), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert Results(scene.image(), "a", {}, boxes, point_coords=single)[1].point_coords.tolist() == [[[3, 4]]]
    equally_many = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    stacked = Results(scene.image(), "a", {}, boxes, point_coords=equally_many).point_coords
    assert torch.is_tensor(stacked) and stacked.tolist() == equally_many
    assert [type(one) for one in result.numpy().point_coords] == [np.ndarray, np.ndarray]
    assert isinstance(result.numpy().cpu().point_coords[0], torch.Tensor)


def test_iteration_stops_after_the_last_object(result: Results) -> None:
    assert [len(one) for one in result] == [1, 1, 1, 1]
    with pytest.raises(IndexError):
        result[4]


def test_boxes_and_masks_convert_to_numpy_arrays(result: Results) -> None:
    assert result.boxes is not None and result.masks is not None
    for part in (result.boxes, result.masks, result.boxes.numpy(), result.boxes[:0]):
        np.testing.assert_array_equal(np.asarray(part), np.asarray(part.data))
    assert np.array(result.boxes, np.float64).dtype == np.float64
    copied = np.array(result.boxes)
    copied[:] = -1
    assert (np.asarray(result.boxes) >= 0).all()


def test_numpy_cpu_and_to_convert_every_part(result: Results) -> None:
    array = result.numpy()
    assert array.boxes is not None and array.masks is not None
    for part in (array.boxes.data, array.masks.data, array.predicted_iou, array.point_coords):
        assert isinstance(part, np.ndarray)
    half = result.to(torch.float16)
    assert half.boxes is not None and half.boxes.data.dtype == torch.float16
    assert result.boxes is not None and result.boxes.data.dtype == torch.float32
    assert result.cpu().to("meta").predicted_iou.device.type == "meta"
    assert len(result.to(torch.bfloat16).summary()) == 4
    np.testing.assert_array_equal(array.plot(), result.plot())
    assert array.to_dicts() == result.to_dicts()


def test_new_and_update(result: Results) -> None:
    result.save_dir = "runs"
    fresh = result.new()
    assert len(fresh) == 0 and fresh.boxes is fresh.masks is None
    assert (fresh.path, fresh.names, fresh.speed, fresh.save_dir) == (
        result.path,
        result.names,
        result.speed,
        result.save_dir,
    )
    assert fresh.orig_img is result.orig_img
    result.update(boxes=torch.tensor([[-3.0, 1, 99, 99, 0.5, 0]]))
    assert result.boxes is not None and result.boxes.xyxy.tolist() == [[0, 1, 64, 48]]
    assert result.predicted_iou is result.point_coords is None
    with pytest.raises(ValueError, match="1 boxes for 4 masks"):
        result.summary()
    result.update(masks=torch.from_numpy(scene.masks()[:1]))
    assert len(result.summary()) == 1
    result.update(boxes=torch.zeros(4, 6), masks=torch.from_numpy(scene.masks()))
    assert result.predicted_iou is None  # it described four other objects
    with pytest.raises(ValueError, match="keypoints and obb are not supported"):
        result.update(keypoints=torch.zeros(1, 17, 3))
    boxes = result.boxes
    with pytest.raises(ValueError):
        result.update(boxes=torch.zeros(2, 6), masks=torch.zeros(2, 3, 4))
    assert result.boxes is boxes


def test_assigned_data_replaces_boxes_and_masks(result: Results) -> None:
    assert result.boxes is not None and result.masks is not None
    second = result[1]
    result.masks.data = result.masks.data[1:2]
    result.boxes.data = result.boxes.data[1:2]
    assert result.predicted_iou is result.point_coords is None  # they describe four objects
    np.testing.assert_array_equal(result.plot(), second.plot())
    assert result.summary() == second.summary() and len(result[0]) == 1
    assert "predicted_iou" not in repr(result) and result.to_dicts()[0]["bbox"] == second.to_dicts()[0]["bbox"]
    result.predicted_iou = torch.tensor([0.5])
    assert result[0].predicted_iou.tolist() == [0.5]
    with pytest.raises(ValueError, match=r"boxes are \(N, 6\)"):
        result.boxes.data = torch.zeros(1, 4)


def test_boxes_and_masks_of_another_image_size_are_refused() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    rows = torch.tensor([[1.0, 2, 9, 8, 0.5, 0]])
    with pytest.raises(ValueError, match=r"boxes are for an image of \(64, 48\), this one is \(48, 64\)"):
        Results(image, "a.jpg", NAMES, Boxes(rows, (64, 48)))
    with pytest.raises(ValueError, match=r"masks are for an image of \(64, 48\), this one is \(48, 64\)"):
        Results(image, "a.jpg", NAMES, rows, Masks(np.zeros((1, 64, 48), bool), (64, 48)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"orig_img": "a.jpg"}, TypeError),
        ({"orig_img": np.zeros((4, 4), np.uint8)}, ValueError),
        ({"orig_img": np.zeros((4, 4, 4), np.uint8)}, ValueError),
        ({"orig_img": np.zeros((4, 4, 3))}, ValueError),
        ({"probs": 1}, ValueError),
        ({"masks": torch.zeros(2, 48, 64, dtype=torch.bool)}, ValueError),
        ({"masks": Masks(torch.zeros(1, 4, 4), (4, 4))}, ValueError),
        ({"predicted_iou": [0.5, 0.5]}, ValueError),
        ({"point_coords": []}, ValueError),
        ({"point_coords": [[1, 2, 3]]}, ValueError),
        ({"point_coords": [[[1, 2, 3]]]}, ValueError),
        ({"point_coords": np.zeros(1)}, ValueError),
        ({"point_coords": torch.zeros(1, 1, 1, 2)}, ValueError),
        ({"point_coords": torch.zeros(1, 3)}, ValueError),
        ({"crop_boxes": [[1, 2, 3]]}, ValueError),
        ({"boxes": torch.zeros(1, 5)}, ValueError),
    ],
)
def test_mismatched_parts_raise_errors(change: dict[str, Any], error: type[Exception]) -> None:
    arguments = {"orig_img": scene.image(), "path": "a.jpg", "names": {}, "boxes": torch.zeros(1, 6), **change}
    with pytest.raises(error):
        Results(**arguments)


def test_copies_and_pickles_are_equal(result: Results) -> None:
    for other in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert other.to_dicts() == result.to_dicts() and other.names == result.names


def test_repr_names_the_parts(result: Results) -> None:
    assert repr(result) == str(result)
    for part in (
        "cat.jpg",
        "48 x 64",
        "4 objects",
        "Boxes(4 x 6",
        "Masks(4 x 48 x 64, held as RLE)",
        "stability_score",
    ):
        assert part in repr(result)
    result.path = "http://me:secret@camera/cat.jpg"
    assert "http://me:***@camera/cat.jpg" in repr(result)


# --- reading ---


def test_numbers_as_class_names_are_nameless() -> None:
    assert Results(scene.image(), "a", ["0", "1"]).nameless
    assert not Results(scene.image(), "a", ["0", "car"]).nameless


def test_verbose_counts_classes() -> None:
    assert scene.results().verbose() == "1 0, 1 1, 1 2, 1 3, "
    boxes = torch.zeros(3, 6)
    boxes[:, 5] = torch.tensor([1.0, 0, 1])
    assert Results(scene.image(), "a", ["dog", "cat"], boxes).verbose() == "1 dog, 2 cats, "


def test_summary_rows(result: Results) -> None:
    rows = result.summary()
    assert rows[1]["name"] == "1" and rows[1]["class"] == 1 and rows[1]["confidence"] == 0.875
    assert rows[1]["box"] == {"x1": 12, "y1": 10, "x2": 23, "y2": 19}
    assert sorted(zip(rows[0]["segments"]["x"], rows[0]["segments"]["y"], strict=True)) == [
        (6, 4),
        (6, 39),
        (49, 4),
        (49, 39),
    ]
    shares = result.summary(normalize=True, decimals=2)
    assert shares[1]["box"] == {"x1": 0.19, "y1": 0.21, "x2": 0.36, "y2": 0.4}
    assert max(shares[0]["segments"]["x"]) == 0.77 and max(shares[0]["segments"]["y"]) == 0.81
    tracked = Results(scene.image(), "a", {}, torch.tensor([[0.0, 0, 1, 1, 9, 0.5, 4]])).summary()
    assert tracked[0]["track_id"] == 9 and tracked[0]["name"] == "4" and "segments" not in tracked[0]


def test_masks_alone_give_boxes_and_scores() -> None:
    result = Results(scene.image(), "a", {}, masks=torch.from_numpy(scene.masks()), predicted_iou=[0.9, 0.8, 0.7, 0.6])
    assert result.rows()[2].tolist() == [52, 2, 61, 43, pytest.approx(0.7), 2]
    assert len(result) == 4 and len(result.to_coco()) == 4
    assert result[1:3].numpy().rows()[1, :5].tolist() == result.rows()[2, :5].tolist()
    assert Results(scene.image(), "a", {}, masks=torch.from_numpy(scene.masks())).rows()[0, 4] == 1


def test_csv_and_json_match_summary(result: Results) -> None:
    read = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["name"] for row in read] == ["0", "1", "2", "3"]
    assert json.loads(read[1]["box"]) == result.summary()[1]["box"]
    assert json.loads(result.to_json()) == result.summary()
    assert result.tojson(normalize=True) == result.to_json(normalize=True)


def test_to_df_uses_polars_or_else_pandas(result: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install polars"):
        result.to_df()
    pandas: Any = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("pandas", rows)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert result.to_df() == ("pandas", result.summary())
    polars: Any = types.ModuleType("polars")
    polars.DataFrame = lambda rows: ("polars", rows)
    monkeypatch.setitem(sys.modules, "polars", polars)
    assert result.to_df()[0] == "polars"


def test_to_dicts_and_from_dicts_round_trip(result: Results) -> None:
    records = result.to_dicts()
    assert list(records[0]) == [
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "stability_score",
        "crop_box",
    ]
    assert records[0]["bbox"] == [6, 4, 43, 35] and records[0]["area"] == 36 * 44
    assert records[1]["point_coords"] == [[13, 11]] and records[1]["crop_box"] == [0, 0, 64, 48]
    json.dumps(records)
    for given in (records, result.to_dicts("mask")):
        back = Results.from_dicts(result.orig_img, result.path, given)
        assert back.to_dicts() == records
        assert back.names == result.names
    assert result.to_dicts("mask")[1]["segmentation"].dtype == bool
    with pytest.raises(ValueError, match="segmentation"):
        result.to_dicts("polygon")  # type: ignore[arg-type]


def test_dicts_without_scores() -> None:
    result = Results(scene.image(), "a", {}, torch.zeros(1, 6), torch.ones(1, 48, 64))
    record = result.to_dicts()[0]
    assert record["stability_score"] is None and record["point_coords"] == []
    assert record["predicted_iou"] == 0 and record["crop_box"] == [0, 0, 64, 48]
    back = Results.from_dicts(result.orig_img, "a", [record])
    assert back.stability_score is None and back.masks is not None and back.masks.area.tolist() == [48 * 64]
    nothing = Results.from_dicts(result.orig_img, "a", [])
    assert nothing.masks is None and nothing.boxes is not None and nothing.boxes.shape == (0, 6)


# --- writing ---


def test_save_txt_appends_polygons(result: Results, tmp_path: Path) -> None:
    target = tmp_path / "new" / "labels.txt"
    assert result.save_txt(target) == str(target)
    lines = target.read_text().splitlines()
    assert len(lines) == 3  # the empty mask has no polygon
    number, *points = lines[0].split()
    assert number == "0"
    assert {tuple(points[i : i + 2]) for i in range(0, 8, 2)} == {
        ("0.09375", "0.0833333"),
        ("0.765625", "0.0833333"),
        ("0.765625", "0.8125"),
        ("0.09375", "0.8125"),
    }
    result.save_txt(target, save_conf=True)
    appended = target.read_text().splitlines()
    assert appended[:3] == lines and [line.split()[-1] for line in appended[3:]] == ["0.95", "0.875", "0.75"]


def test_save_txt_writes_boxes_without_masks(tmp_path: Path) -> None:
    result = Results(scene.image(), "a", {}, torch.tensor([[0.0, 0, 32, 24, 9, 0.5, 4]]))
    result.save_txt(tmp_path / "a.txt", save_conf=True)
    assert (tmp_path / "a.txt").read_text() == "4 0.25 0.25 0.5 0.5 0.5 9\n"


def test_save_txt_without_lines_makes_no_file(result: Results, tmp_path: Path) -> None:
    result[3].save_txt(tmp_path / "a.txt")
    Results(scene.image(), "a", {}).save_txt(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_save_crop_sorts_by_class_and_never_overwrites(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = torch.tensor(
        [
            [10.0, 10, 30, 20, 0.9, 0],
            [-50, -50, 20, 20, 0.9, 2],
            [500, 500, 600, 600, 0.9, 1],
            [20, 20, 40, 40, 0.9, 3],
        ]
    )
    result = Results(scene.image(), "a.jpg", NAMES, boxes)
    result.save_crop(tmp_path, "frame.png")
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert written == ["a_b/frame.jpg", "person/frame-2.jpg", "person/frame.jpg"]
    assert "box 2" in caplog.text
    # 20 x 10 pixels grow by 2 % and 10 pixels; all edges are then rounded down
    assert cv2.imread(str(tmp_path / "person" / "frame.jpg")).shape == (21, 31, 3)
    result.save_crop(tmp_path, "frame.png")
    assert (tmp_path / "person" / "frame-4.jpg").exists()


def test_box_of_zero_width_has_a_crop(tmp_path: Path) -> None:
    """Boxes of masks include their last pixel, so that of a mask in column 0 has x1 = x2 = 0."""
    Results(scene.image(), "a", {0: "edge"}, torch.tensor([[0.0, 20, 0, 29, 1, 0]])).save_crop(tmp_path)
    assert [path.name for path in (tmp_path / "edge").iterdir()] == ["im.jpg"]


@pytest.mark.parametrize("name", ["..", "../../x", "/etc", "a\\b", "", "con:1", "ü" * 200, "a " * 150])
def test_class_names_cannot_escape_the_crops_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "crops"
    Results(scene.image(), "a", {0: name}, torch.tensor([[1.0, 1, 9, 9, 1, 0]])).save_crop(folder)
    assert [path.parent.parent for path in tmp_path.rglob("*.jpg")] == [folder]


def test_save_default_name_and_new_folders(result: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert result.save() == "results_cat.jpg"
    target = tmp_path / "new" / "folder" / "a.PNG"
    assert result.save(target, boxes=False) == str(target)
    np.testing.assert_array_equal(cv2.imread(str(target)), result.plot(boxes=False))
    result.path = "/videos/walk.mp4"
    assert result.save() == "results_walk.jpg"
    result.path = "https://host/cat.jpg?size=4/3#top"
    assert result.save() == "results_cat.jpg"
    assert result.plot(save=True, filename=tmp_path / "b.png").shape == (48, 64, 3)
    assert (tmp_path / "b.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "new", "results_cat.jpg", "results_walk.jpg"]


def test_failed_save_keeps_the_old_file(result: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.jpg"
    target.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        result.save(target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["a", "a.heic", "a.txt"])
def test_save_in_an_unknown_format_raises(result: Results, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="suffix"):
        result.save(tmp_path / name)


def test_show_opens_a_viewer(result: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("PIL.Image.Image.show", lambda image, title=None: shown.append((image.size, title)))
    result.show(boxes=False)
    assert shown == [((64, 48), "/images/cat.jpg")]


def test_notebook_image_is_at_most_1024_wide(result: Results) -> None:
    decoded = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, result.plot())
    large = Results(np.zeros((3, 3000, 3), np.uint8), "a", {})
    assert cv2.imdecode(np.frombuffer(large._repr_png_(), np.uint8), cv2.IMREAD_COLOR).shape == (1, 1024, 3)
