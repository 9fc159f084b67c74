"""Tests of reading LabelMe files, such as labels that were corrected by hand."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsam_core.formats import (
    CocoWriter,
    ImageLabels,
    LabelledObject,
    Segmentation,
    convert_labels,
    open_writer,
    read_labels,
)
from label_examples import encoded, pixels, refused

SIZE = (40, 50)
SQUARE = [[5, 3], [30, 3], [30, 9], [5, 9]]


def shape(label: Any = "cat", points: Any = SQUARE, shape_type: str = "polygon", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": shape_type, "flags": {}, **fields}


def write(path: Path, *shapes: Any, **fields: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": f"{path.stem}.jpg", "imageData": None,
        "imageHeight": SIZE[0], "imageWidth": SIZE[1],
    }  # fmt: skip
    path.write_text(json.dumps(document | fields))
    return path


def only(path: Path, **options: Any) -> ImageLabels:
    (labels,) = read_labels(path, "labelme", **options)
    return labels


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def png_of(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_shapes_of_a_group_are_one_object(tmp_path: Path) -> None:
    other = [[40, 20], [45, 20], [45, 22], [40, 22]]
    path = write(
        tmp_path / "sub" / "a.json",
        shape("cat", group_id=1),
        shape("dog", score=0.5),
        shape("cat", other, group_id=1, score=0.25),
        shape("dog", group_id=1),
        shape("cat", [[45, 22], [40, 20]], "rectangle"),
        shape("cat", [[41, 21], [40, 20]], "rectangle", group_id=1),
        imagePath="..\\..\\images\\b.png",
    )
    labels = only(tmp_path)
    assert (labels.file_name, labels.size, labels.image_id) == ("sub/b.png", SIZE, None)
    assert labels.names == {0: "cat", 1: "dog"}
    assert [(found.class_id, found.score) for found in labels.objects] == [(0, 0.25), (1, 0.5), (1, None), (0, None)]
    np.testing.assert_array_equal(pixels(labels, 0), rectangle(5, 3, 30, 9) | rectangle(40, 20, 45, 22))
    np.testing.assert_array_equal(pixels(labels, 2), rectangle(5, 3, 30, 9))
    assert labels.objects[3].segmentation is None and labels.objects[3].xyxy() == (40, 20, 45, 22)
    assert only(path).file_name == "b.png"


def test_every_kind_of_shape_with_an_area_is_read(tmp_path: Path) -> None:
    mask = np.eye(4, 6, dtype=bool)
    expected = np.zeros(SIZE, bool)
    expected[10:14, 20:26] = mask
    beyond = np.zeros(SIZE, bool)
    beyond[:2, :3] = mask[2:, 3:]
    labels = only(
        write(
            tmp_path / "a.json",
            shape(points=[[20, 10], [25, 13]], shape_type="mask", mask=png_of(mask)),
            shape(points=[[-3.0, -2.0], [2, 1]], shape_type="mask", mask=png_of(mask)),
            shape(points=[[20, 10], [25, 13]], shape_type="mask", mask=png_of(mask), group_id=0),
            shape(group_id=0),
            shape(points=SQUARE, shape_type="oriented_rectangle"),
            shape(points=SQUARE, shape_type="rectangle"),
            shape(points=[[25, 20], [25, 30]], shape_type="circle"),
        )
    )
    for index, wanted in (
        (0, expected),
        (1, beyond),
        (2, expected | rectangle(5, 3, 30, 9)),
        (3, rectangle(5, 3, 30, 9)),
    ):
        np.testing.assert_array_equal(pixels(labels, index), wanted)
    assert labels.objects[4].segmentation is None and labels.objects[4].xyxy() == (5, 3, 30, 9)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = np.hypot(x - 25, y - 20)
    circle = pixels(labels, 5)
    assert circle[distance < 9.9].all() and not circle[distance > 10.1].any()


def test_memory_depends_on_the_masks_of_a_file_alone(tmp_path: Path) -> None:
    eye = shape(points=[[900_000, 70], [900_005, 73]], shape_type="mask", mask=png_of(np.eye(4, 6, dtype=bool)))
    labels = only(write(tmp_path / "a.json", eye, imageHeight=1_000_000, imageWidth=1_000_000))
    assert labels.objects[0].xyxy() == (900_000, 70, 900_004, 74)


def test_labels_become_the_class_ids_of_known_names(tmp_path: Path) -> None:
    write(tmp_path / "me" / "a.json", shape("dog"), shape("12"), shape("new"))
    write(tmp_path / "me" / "b.json", shape("newer"), shape("new"), shape("0"))
    (tmp_path / "data.yaml").write_text("names: {3: cat, 7: dog, 8: dog}\n")
    found = read_labels(tmp_path / "me", "labelme")
    for _ in range(2):  # can be iterated again
        assert [[obj.class_id for obj in labels.objects] for labels in found] == [[7, 12, 13], [14, 13, 0]]
    assert found.names == {3: "cat", 7: "dog", 8: "dog", 12: "12", 13: "new", 14: "newer", 0: "0"}
    given = read_labels(tmp_path / "me", "labelme", names=["new", "dog", "12", "newer", "0"])
    assert [[obj.class_id for obj in labels.objects] for labels in given] == [[1, 2, 0], [3, 0, 4]]
    errors: list[ValueError] = []
    (a, b) = read_labels(tmp_path / "me", "labelme", names=["dog"], on_error=errors.append)
    assert len(a.objects) == 1 and not b.objects and len(errors) == 5
    assert str(errors[0]).endswith("a.json: shapes[1].label: '12' is none of the given class names")


def test_labels_that_are_numbers_share_no_class_with_others(tmp_path: Path) -> None:
    labels = only(write(tmp_path / "a.json", shape("0"), shape("cat"), shape("1"), shape("0"), shape("cat")))
    assert [found.class_id for found in labels.objects] == [0, 1, 2, 0, 1]
    assert labels.names == {0: "0", 1: "cat", 2: "1"}


def test_labels_of_auto_annotate_come_back_after_editing(tmp_path: Path) -> None:
    ring = rectangle(5, 5, 30, 30) & ~rectangle(10, 10, 20, 20) | rectangle(40, 1, 42, 3)
    objects = [
        LabelledObject(4, Segmentation.from_rle(encoded(ring)), score=0.5),
        LabelledObject(1, box=(1.0, 2.0, 9.0, 8.0)),
    ]
    with open_writer(tmp_path / "me", "labelme") as writer:
        writer.write(ImageLabels("x/a.jpg", SIZE[1], SIZE[0], objects, {1: "cup", 4: "plate"}))
    path = tmp_path / "me" / "x" / "a.json"
    document = json.loads(path.read_text())
    document["shapes"].append(shape("fork"))
    path.write_text(json.dumps(document))
    done = convert_labels(
        tmp_path / "me", tmp_path / "out.json", from_="labelme", to="coco", names=["a", "cup", "fork", "b", "plate"]
    )
    assert (done.objects, done.left_out) == (3, 0)
    (labels,) = read_labels(tmp_path / "out.json", "coco")
    assert labels.file_name == "x/a.jpg"
    assert [(labels.name_of(obj.class_id), obj.class_id, obj.score) for obj in labels.objects] == [
        ("plate", 4, 0.5), ("cup", 1, None), ("fork", 2, None)
    ]  # fmt: skip
    np.testing.assert_array_equal(pixels(labels, 0), ring)
    assert labels.objects[1].xyxy() == (1, 2, 9, 8)


def test_sizes_that_a_file_lacks_are_those_of_the_image(tmp_path: Path) -> None:
    path = write(tmp_path / "me" / "a.json", shape(), imageHeight=None, imageWidth=None, imagePath="../photos/a.jpg")
    refused("labelme", path, r"a\.json: 'imageHeight' and 'imageWidth' are missing, and there is no .*a\.jpg")
    (tmp_path / "photos").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / "photos" / "a.jpg")
    assert only(path).size == SIZE
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert only(path, images=tmp_path / "moved").size == SIZE
    write(path, shape(), imageHeight=None)
    refused("labelme", path, r"a\.json: 'imageHeight' is missing")


A = r"a\.json: shapes\[0\]"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (5, rf"{A}: a JSON object is needed, not '5'"),
        (shape(None), rf"{A}: 'label' is missing"),
        (shape(7), rf"{A}\.label: text is needed, not '7'"),
        (shape(points=None), rf"{A}: 'points' is missing"),
        (shape(points=[[1, 2], [3, 4]]), rf"{A}: a polygon is \(K, 2\) x, y with at least 3 points"),
        (shape(points=[[1, 2], [3, 4], [5]]), rf"{A}\.points\[2\]: a list of 2 finite numbers"),
        (shape(points=[[1, 2], [3, 4], [1e30, 5]]), rf"{A}: polygon coordinates must be finite"),
        (shape(shape_type="blob"), rf"{A}: unknown shape_type 'blob'"),
        (shape(shape_type="linestrip"), rf"{A}: a linestrip has no area"),
        (shape(shape_type="rectangle", points=[[1, 2]]), rf"{A}\.points: 1 points; a rectangle has 2"),
        (shape(shape_type="circle", points=SQUARE), rf"{A}\.points: 4 points; a circle has 2"),
        (shape(shape_type="circle", points=[[1, 2], [1, 2]]), rf"{A}\.points: the circle's radius is 0"),
        (shape(shape_type="mask", points=[[1, 2], [3, 4]]), rf"{A}: 'mask' is missing"),
        (shape(shape_type="mask", points=[[1, 2], [3, 4]], mask="bm90IGE="), rf"{A}\.mask: "),
        (shape(shape_type="mask", points=[[1, 2], [3, 4]], mask=5), rf"{A}\.mask: "),
        (shape(shape_type="mask", points=[[1e7, 2], [3e9, 4]], mask="x"), rf"{A}\.points: the mask is farther"),
        (shape(score="high"), rf"{A}\.score: a finite number is needed"),
    ],
)
def test_malformed_shapes_are_refused_or_skipped(tmp_path: Path, wrong: Any, message: str) -> None:
    path = write(tmp_path / "a.json", wrong, shape())
    refused("labelme", path, message)
    errors: list[ValueError] = []
    assert len(only(path, on_error=errors.append).objects) == 1 and len(errors) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "coco.json") as writer:
        writer.write(ImageLabels("a.jpg", 4, 4))
    refused("labelme", tmp_path, r"coco\.json: 'imagePath' is missing")
    (tmp_path / "empty").mkdir()
    refused("labelme", tmp_path / "empty", r"no \.json file in the folder .*empty", FileNotFoundError)
    refused("labelme", tmp_path / "none", "no such folder", NotADirectoryError)
