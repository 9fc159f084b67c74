"""Tests of converting results to COCO, SA-1B, YOLO and supervision, read back by pycocotools where possible."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

import scene
from fastsam_core.formats import coco, yolo
from fastsam_core.results import Results


def read_coco(dataset: dict[str, Any]) -> COCO:
    read = COCO()
    read.dataset = json.loads(json.dumps(dataset))
    read.createIndex()
    return read


def test_coco_annotation_fields() -> None:
    first, second, third, empty = scene.results().to_coco(image_id=5, first_id=11)
    assert [entry["id"] for entry in (first, second, third, empty)] == [11, 12, 13, 14]
    assert first["image_id"] == 5 and first["category_id"] == 1 and first["iscrowd"] == 0
    assert first["bbox"] == [6.0, 4.0, 44.0, 36.0] and all(type(side) is float for side in first["bbox"])
    assert first["area"] == 44 * 36 and second["area"] == 120 - 20
    assert first["segmentation"]["size"] == [48, 64] and type(first["segmentation"]["counts"]) is str
    assert first["score"] == pytest.approx(0.95) and first["stability_score"] == pytest.approx(0.96)
    assert third["bbox"] == [52, 2, 10, 42]
    assert empty["bbox"] == [0, 0, 0, 0] and empty["area"] == 0


def test_coco_datasets_are_read_by_pycocotools() -> None:
    other = Results(scene.image(), "dog.png", {}, torch.zeros(0, 6))
    dataset = coco.dataset([scene.results(), other, scene.results(path="b.jpg")], first_image_id=3)
    assert [(image["id"], image["file_name"]) for image in dataset["images"]] == [
        (3, "cat.jpg"),
        (4, "dog.png"),
        (5, "b.jpg"),
    ]
    assert (dataset["images"][0]["width"], dataset["images"][0]["height"]) == (64, 48)
    assert dataset["categories"] == [{"id": 1, "name": "object", "supercategory": ""}]
    assert dataset["info"] == {"description": "Annotations written by fastsam_core"} and dataset["licenses"] == []
    read = read_coco(dataset)
    read.info()  # needed by `loadRes` of some versions
    assert sorted(read.anns) == list(range(1, 9))
    for i, annotation in enumerate(read.loadAnns(read.getAnnIds(imgIds=[5], iscrowd=False))):
        np.testing.assert_array_equal(read.annToMask(annotation), scene.masks()[i])


def test_coco_category_ids_and_names() -> None:
    named = scene.results(names={0: "person", 1: "car", 2: "dog", 3: "cat"})
    dataset = coco.dataset(named)
    first = dataset["annotations"][0]
    assert dataset["images"][0]["id"] == first["image_id"] == first["id"] == 1 and "counts" in first["segmentation"]
    assert [entry["category_id"] for entry in dataset["annotations"]] == [1, 2, 3, 4]
    assert [entry["name"] for entry in dataset["categories"]] == ["person", "car", "dog", "cat"]
    half_named = scene.results(names={0: "0", 1: "car", 2: "2", 3: "3"})
    assert [entry["category_id"] for entry in half_named.to_coco()] == [1, 2, 3, 4]
    assert {entry["category_id"] for entry in named.to_coco(category_ids=7)} == {7}
    assert [entry["category_id"] for entry in named.to_coco(category_ids=[4, 3, 2, 1])] == [4, 3, 2, 1]
    assert coco.dataset(named, category_ids=7)["categories"] == [{"id": 7, "name": "object", "supercategory": ""}]
    with pytest.raises(ValueError, match="2 category_ids for 4"):
        named.to_coco(category_ids=[1, 2])


def test_coco_polygons_equal_the_masks() -> None:
    _, hole, parts, empty = scene.results().to_coco(polygons=True)
    assert [len(part) for part in parts["segmentation"]] == [8, 8]
    # The ring is one polygon: a bridge joins outline and hole, so two corners are visited twice.
    assert [len(part) for part in hole["segmentation"]] == [2 * (4 + 4 + 2)]
    read = read_coco(coco.dataset(scene.results(), polygons=True))
    for i in range(4):
        np.testing.assert_array_equal(read.annToMask(read.anns[i + 1]), scene.masks()[i])
    assert empty["segmentation"]["size"] == [48, 64]


def test_coco_annotations_of_boxes_have_no_segmentation() -> None:
    result = Results(scene.image(), "a", {}, torch.tensor([[1.0, 2, 4, 8, 0.5, 0]]))
    (annotation,) = result.to_coco()
    assert annotation["bbox"] == [1, 2, 3, 6] and annotation["area"] == 18 and "segmentation" not in annotation


def test_sa1b_record_fields() -> None:
    record = scene.results().to_sa1b(image_id=9, first_id=100)
    assert record["image"] == {"image_id": 9, "width": 64, "height": 48, "file_name": "cat.jpg"}
    assert set(record) == {"image", "annotations"}
    assert [entry["id"] for entry in record["annotations"]] == [100, 101, 102, 103]
    entry = record["annotations"][1]
    assert set(entry) == {
        "id",
        "segmentation",
        "area",
        "bbox",
        "predicted_iou",
        "point_coords",
        "crop_box",
        "stability_score",
    }
    assert entry["bbox"] == [12, 10, 11, 9] and entry["area"] == 100 and type(entry["area"]) is int
    assert entry["crop_box"] == [0, 0, 64, 48] and entry["point_coords"] == [[13, 11]]
    assert json.loads(json.dumps(record)) == record


def test_yolo_lines() -> None:
    triangle = np.array([[0, 0], [1 / 3, 0.5], [0.25, 1e-7]], np.float32)
    assert yolo.lines([triangle], [2.0]) == ["2 0 0 0.333333 0.5 0.25 1e-07"]
    assert yolo.lines([triangle, triangle[:2], triangle[:0]], [1, 2, 3], conf=[0.5, 0.6, 0.7], ids=[7, 8, 9]) == [
        "1 0 0 0.333333 0.5 0.25 1e-07 0.5 7"
    ]
    assert yolo.lines([], []) == []
    with pytest.raises(ValueError, match="polygon"):
        yolo.lines([np.zeros(6)], [1])
    with pytest.raises(ValueError, match="zip"):
        yolo.lines([triangle], [1, 2])


class Detections:
    """Stands in for `supervision.Detections`."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields


def test_supervision_missing_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        scene.results().to_supervision()


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("recent", [True, False])
def test_supervision_masks_are_compact_where_supported(
    monkeypatch: pytest.MonkeyPatch, compact: bool, recent: bool
) -> None:
    module: Any = types.ModuleType("supervision")
    module.Detections = Detections
    if recent:
        module.CompactMask = types.SimpleNamespace(from_coco_rle=lambda *arguments: arguments)
    monkeypatch.setitem(sys.modules, "supervision", module)
    result = scene.results()
    fields = result.to_supervision(compact=compact).fields
    if compact and recent:
        rles, boxes, shape = fields["mask"]
        assert rles == result.masks.rle and shape == (48, 64)
        assert boxes.tolist() == result.masks.boxes.tolist()
    else:
        assert fields["mask"].dtype == bool
        np.testing.assert_array_equal(fields["mask"], scene.masks())
    assert fields["xyxy"].shape == (4, 4) and fields["class_id"].tolist() == [0, 1, 2, 3]
    assert fields["tracker_id"] is None and fields["data"]["class_name"].tolist() == ["0", "1", "2", "3"]


def test_real_supervision_returns_the_same_masks() -> None:
    pytest.importorskip("supervision")
    for result in (scene.results(), scene.results()[[]], Results(scene.image(), "a", {}, torch.zeros(0, 6))):
        detections = result.to_supervision()
        assert len(detections) == len(result)
        if result.masks is not None:
            np.testing.assert_array_equal(np.asarray(detections.mask), np.asarray(result.masks.data))


def test_sa1b_keeps_non_ascii_file_names(tmp_path: Path) -> None:
    result = scene.results(path=str(tmp_path / "folder" / "ä b.jpg"))
    assert result.to_sa1b()["image"]["file_name"] == "ä b.jpg"


def test_coco_ids_are_plain_integers() -> None:
    result = scene.results()
    given = {"image_id": np.int64(5), "first_id": torch.tensor(11), "category_ids": np.array([3, 1, 2, 4])}
    assert json.dumps(result.to_coco(**given)) == json.dumps(
        result.to_coco(image_id=5, first_id=11, category_ids=[3, 1, 2, 4])
    )
    assert {entry["category_id"] for entry in result.to_coco(category_ids=np.int64(7))} == {7}
    assert result.to_coco(image_id="cat")[0]["image_id"] == "cat"
    for wrong in ({"image_id": 1.5}, {"first_id": 1.5}, {"category_ids": [1, 2, 2.5, 3]}, {"category_ids": 1.5}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be an integer"):
            result.to_coco(**wrong)


def test_sa1b_ids_are_plain_integers() -> None:
    result = scene.results()
    found = result.to_sa1b(image_id=np.int64(5), first_id=torch.tensor(11))
    assert json.dumps(found) == json.dumps(result.to_sa1b(image_id=5, first_id=11))
    assert result.to_sa1b(image_id="cat")["image"]["image_id"] == "cat"
    for name in ("image_id", "first_id"):
        with pytest.raises(TypeError, match=f"{name} must be an integer, not 1.5"):
            result.to_sa1b(**{name: 1.5})


def test_records_with_missing_fields_are_refused() -> None:
    records = scene.results().to_dicts()
    for key in ("segmentation", "bbox", "predicted_iou"):
        lacking = [records[0], {name: value for name, value in records[1].items() if name != key}]
        with pytest.raises(ValueError, match=f"record 1 has no {key}"):
            Results.from_dicts(scene.image(), "a.png", lacking)
    with pytest.raises(TypeError, match="record 0 must be one of SAM's dicts, not str"):
        Results.from_dicts(scene.image(), "a.png", "abc")
