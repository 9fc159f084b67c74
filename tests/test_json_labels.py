"""Tests of reading COCO and SA-1B files made elsewhere: tolerated variants, and errors that name file and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastsam_core.formats import ImageLabels, LabelledObject, convert_labels, open_writer, read_labels
from label_examples import encoded, pixels, refused

SIZE = (40, 50)


# ----------------------------------------------------------------------------------------------------------------- COCO


def coco_file(folder: Path, **changes: Any) -> Path:
    """Write a valid file of one image with one annotation, apart from `changes` to it ("gone" removes a field)."""
    annotation = {"id": 1, "image_id": 9, "category_id": 4, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]}
    annotation = {key: value for key, value in {**annotation, **changes}.items() if value != "gone"}
    document = {
        "images": [{"id": 9, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 4, "name": "cat"}],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return folder / "labels.json"


def test_coco_segmentations_of_all_kinds_are_read(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[3:9, 5:30] = True
    code = encoded(mask)
    counts = [5 * 40 + 3, *([6, 34] * 24), 6, 40 * 50 - 5 * 40 - 3 - 24 * 40 - 6]
    for segmentation in (
        code,
        {"size": [40, 50], "counts": counts},
        [[5, 3, 30, 3, 30, 9, 5, 9]],
        [[5, 3, 20, 3, 20, 9, 5, 9], [15.0, 3, 30, 3, 30, 9, 15, 9]],
        [[7, 30], [5, 3, 30, 3, 30, 9, 5, 9], [1, 2, 3, 4], []],  # a point and a line, which enclose nothing
        [5, 3, 30, 3, 30, 9, 5, 9],  # without the list around it
    ):
        (labels,) = read_labels(coco_file(tmp_path, segmentation=segmentation), "coco")
        np.testing.assert_array_equal(pixels(labels, 0), mask)
        (found,) = labels.objects
        assert (found.class_id, found.box, found.score, found.iscrowd) == (0, (1, 2, 4, 6), None, False)
    assert (labels.image_id, labels.names, labels.size) == (9, {0: "cat"}, SIZE)
    for segmentation in ([], [[]], None, "gone"):
        (labels,) = read_labels(coco_file(tmp_path, segmentation=segmentation), "coco")
        assert labels.objects[0].segmentation is None and labels.objects[0].xyxy() == (1, 2, 4, 6)
    (labels,) = read_labels(coco_file(tmp_path, segmentation=code, bbox=[]), "coco")
    assert labels.objects[0].box is None and labels.objects[0].xyxy() == (5, 3, 30, 9)


def test_image_names_become_relative_to_the_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "set" / "images" / "sub").mkdir(parents=True)
    for name in ("sub/a.png", "b.png"):
        Image.new("L", (4, 4)).save(tmp_path / "set" / "images" / name)
    expected = {
        f"{tmp_path}/set/labels/../images/sub/a.png": "sub/a.png",
        "images/sub/a.png": "sub/a.png",
        "set/images/sub/a.png": "sub/a.png",
        "set\\images\\b.png": "b.png",
        "C:\\data\\images\\sub\\a.png": "sub/a.png",
        "/images/elsewhere/b.png": "/images/elsewhere/b.png",  # several have its last part
        "/elsewhere/c.png": "/elsewhere/c.png",
        "other/images/sub/a.png": "other/images/sub/a.png",
        "sub/d.png": "sub/d.png",
    }
    with open_writer(tmp_path / "labels.json", "coco") as writer:
        for name in expected:
            writer.write(ImageLabels(name, 4, 4))
    found = read_labels(tmp_path / "labels.json", "coco", images=tmp_path / "set" / "images")
    assert [labels.file_name for labels in found] == list(expected.values())
    assert [labels.file_name for labels in read_labels(tmp_path / "labels.json", "coco")] == list(expected)
    with open_writer(tmp_path / "labels.json", "coco") as writer:
        writer.write(ImageLabels("C:\\elsewhere\\b.png", 4, 4))
    (labels,) = read_labels(tmp_path / "labels.json", "coco", images=tmp_path / "set" / "images")
    assert labels.file_name == "b.png"


def test_image_names_of_lvis_are_those_of_the_coco_url(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    document = json.loads(path.read_text())
    del document["images"][0]["file_name"]
    document["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000009.jpg"
    path.write_text(json.dumps(document))
    (labels,) = read_labels(path, "coco")
    assert labels.file_name == "train2017/000000000009.jpg"


def test_coco_image_ids_may_be_text(tmp_path: Path) -> None:
    path = coco_file(tmp_path, image_id="a")
    document = json.loads(path.read_text())
    document["images"][0]["id"] = "a"
    path.write_text(json.dumps(document))
    (labels,) = read_labels(path, "coco")
    assert labels.image_id is None and len(labels.objects) == 1
    document["images"] *= 2
    path.write_text(json.dumps(document))
    refused("coco", path, r"images\[1\]\.id: another image has the id 'a' too")
    (labels,) = read_labels(coco_file(tmp_path, image_id="9"), "coco")  # of the image 9
    assert labels.image_id == 9 and len(labels.objects) == 1


def test_sizes_that_a_coco_file_lacks_are_those_of_the_images(tmp_path: Path) -> None:
    path = coco_file(tmp_path, segmentation=[[5, 3, 30, 3, 30, 9, 5, 9]])
    document = json.loads(path.read_text())
    image = document["images"][0]
    del image["height"], image["width"]
    path.write_text(json.dumps(document))
    refused("coco", path, r"images\[0\]: 'height' and 'width' are missing; give images=")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", SIZE).save(tmp_path / "a.png", exif=exif)
    image["file_name"] = "a.png"
    path.write_text(json.dumps(document))
    (labels,) = read_labels(path, "coco", images=tmp_path)
    assert labels.size == SIZE and labels.objects[0].segmentation.area == 150
    assert convert_labels(path, tmp_path / "sa1b", from_="coco", to="sa1b", images=tmp_path).objects == 1
    image["height"] = 40
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"images\[0\]: 'width' is missing"):
        list(read_labels(path, "coco", images=tmp_path))


@pytest.mark.parametrize(
    ("names", "class_ids", "listed"),
    [({}, [], ["object"]), ({}, [0], ["object"]), ({0: "cat"}, [0], ["cat"]), ({}, [2], ["0", "1", "2"])],
)
def test_written_categories_cover_all_class_ids(
    tmp_path: Path, names: Any, class_ids: list[int], listed: list[str]
) -> None:
    found = [LabelledObject(class_id, box=(1, 2, 3, 4)) for class_id in class_ids]
    with open_writer(tmp_path / "a.json", "coco") as writer:
        writer.write(ImageLabels("a.png", 40, 50, found, names))
    categories = json.loads((tmp_path / "a.json").read_text())["categories"]
    assert [(entry["id"], entry["name"]) for entry in categories] == list(enumerate(listed, 1))


def test_coco_class_ids_number_the_categories_by_id(tmp_path: Path) -> None:
    document = json.loads(coco_file(tmp_path).read_text())
    document["categories"] = [{"id": 90, "name": "z"}, {"id": 4, "name": "cat"}, {"id": 13, "name": "s"}]
    (tmp_path / "labels.json").write_text("\ufeff" + json.dumps(document, indent=1).replace("\n", "\r\n"), "utf-8")
    labels = read_labels(tmp_path / "labels.json", "coco")
    assert labels.names == {0: "cat", 1: "s", 2: "z"} and next(iter(labels)).objects[0].class_id == 0


A = r"labels\.json: annotations\[0\]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 8}, rf"{A}\.image_id: no image has the id 8"),
        ({"image_id": "gone"}, rf"{A}: 'image_id' is missing"),
        ({"image_id": "8"}, rf"{A}\.image_id: no image has the id 8"),
        ({"image_id": "09"}, rf"{A}\.image_id: no image has the id '09'"),
        ({"image_id": True}, rf"{A}\.image_id: an integer"),
        ({"image_id": ""}, rf"{A}\.image_id: text is needed"),
        ({"category_id": 5}, rf"{A}\.category_id: no category has the id 5"),
        ({"bbox": [1, 2, 3]}, rf"{A}\.bbox: a list of 4 finite numbers is needed, not 'list' of 3"),
        ({"bbox": [1, 2, 3, "4"]}, rf"{A}\.bbox: a list of 4 finite"),
        ({"bbox": [1, 2, -3, 4]}, rf"{A}: the box .* second corner left of"),
        ({"bbox": "1 2 3 4"}, rf"{A}\.bbox: a list of 4 finite numbers is needed, not '1 2 3 4'"),
        ({"bbox": [10**400, 0, 1, 1]}, rf"{A}\.bbox: a list of 4 finite numbers is needed"),
        ({"segmentation": [[1, 2, 3, 4]]}, rf"{A}\.segmentation\[0\]: 4 numbers; a polygon has an even number"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, rf"{A}\.segmentation\[0\]: 7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6], [1, 2, 3]]}, rf"{A}\.segmentation\[1\]: 3 numbers"),
        ({"segmentation": [1, 2, 3, 4]}, rf"{A}\.segmentation: 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e30]]}, rf"{A}\.segmentation: polygon coordinates must be finite"),
        ({"segmentation": [[1, 2, 3, 4, 5, True]]}, rf"{A}\.segmentation\[0\]: a list of finite numbers"),
        ({"segmentation": 5}, rf"{A}\.segmentation: a list is needed, not '5'"),
        ({"segmentation": {"counts": "abc", "size": [40, 50]}}, rf"{A}\.segmentation: malformed RLE"),
        ({"segmentation": {"counts": [3], "size": [40, 50]}}, rf"{A}\.segmentation: the runs sum to 3"),
        ({"segmentation": {"counts": [2000], "size": [50, 40]}}, rf"{A}\.segmentation: its size is \[50, 40\]"),
        ({"segmentation": {"counts": [0], "size": [1 << 40, 1 << 40]}}, rf"{A}\.segmentation: "),
        ({"segmentation": {"size": [40, 50]}}, rf"{A}\.segmentation: an RLE needs the keys"),
        ({"iscrowd": "0"}, rf"{A}\.iscrowd: 0 or 1 is needed, not '0'"),
        ({"iscrowd": 2}, rf"{A}\.iscrowd: 0 or 1 is needed, not '2'"),
        ({"iscrowd": [0]}, rf"{A}\.iscrowd: 0 or 1 is needed, not 'list'"),
        ({"score": "high"}, rf"{A}\.score: a finite number is needed, not 'high'"),
        ({"segmentation": "gone", "bbox": "gone"}, rf"{A}: an object needs a segmentation or a box"),
    ],
)
def test_wrong_coco_annotation_fields_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused("coco", coco_file(tmp_path, **changes), message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 0, "width"), 0, r"images\[0\]\.width: width must be an integer number of pixels from 1 to 1000000"),
        (("images", 0, "height"), 1e300, r"images\[0\]\.height: height must be an integer"),
        (("images", 0, "height"), None, r"images\[0\]: 'height' is missing"),
        (("images", 0, "file_name"), "", r"images\[0\]\.file_name: text is needed"),
        (("images",), {}, r"images: a list is needed, not 'dict'"),
        (("images",), [{"id": 9}] * 2, r"images\[1\]\.id: another image has the id 9 too"),
        (("images", 0), [], r"images\[0\]: a JSON object is needed"),
        (("categories", 0, "name"), 3, r"categories\[0\]\.name: text is needed, not '3'"),
        (("categories",), [{"id": 4, "name": "a"}] * 2, r"categories\[1\]\.id: another category has the id 4 too"),
        (("annotations",), None, r"labels\.json: 'annotations' is missing"),
    ],
)
def test_wrong_coco_image_and_category_fields_are_refused(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    document = json.loads(coco_file(tmp_path).read_text())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "labels.json").write_text(json.dumps(document))
    refused("coco", tmp_path / "labels.json", message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(
    field=st.sampled_from(["image_id", "category_id", "bbox", "segmentation", "iscrowd", "score"]), value=json_values
)
def test_any_value_in_a_coco_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = coco_file(folder, **{field: value})
    try:
        (labels,) = read_labels(path, "coco")
    except ValueError as error:
        assert "labels.json" in str(error)
    else:
        assert len(labels.objects) == 1


# ---------------------------------------------------------------------------------------------------------------- SA-1B


def sa1b_document(**changes: Any) -> dict[str, Any]:
    annotation = {
        "id": 5,
        "segmentation": encoded(np.eye(6, dtype=bool)),
        "bbox": [0, 0, 5, 5],
        "area": 6,
        "predicted_iou": 0.9,
        "stability_score": 0.95,
        "point_coords": [[1.5, 2]],
        "crop_box": [0, 0, 6, 6],
    }
    annotation = {key: value for key, value in {**annotation, **changes}.items() if value != "gone"}
    return {"image": {"image_id": 3, "file_name": "sa_3.jpg", "width": 6, "height": 6}, "annotations": [annotation]}


def test_sa1b_folders_and_files_are_read(tmp_path: Path) -> None:
    for name, document in (
        ("sub/b.json", sa1b_document(class_id=2, class_name="dog")),
        ("a.json", sa1b_document(predicted_iou="gone", point_coords="gone", crop_box=None)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(document))
    found = read_labels(tmp_path, "sa1b")
    first, second = found
    assert len(found) == 2 and (first.file_name, second.file_name) == ("sa_3.jpg", "sub/sa_3.jpg")
    assert found.names == {2: "dog"} and first.image_id == 3
    (obj,), (other_obj,) = first.objects, second.objects
    assert (obj.class_id, obj.predicted_iou, obj.point_coords, obj.crop_box) == (0, None, None, None)
    assert (other_obj.class_id, other_obj.predicted_iou, other_obj.stability_score) == (2, 0.9, 0.95)
    assert other_obj.point_coords == [[1.5, 2]] and other_obj.crop_box == [0, 0, 6, 6]
    (tmp_path / "a.json").write_text(json.dumps(sa1b_document(point_coords=[[]])))  # as Datumaro writes it
    assert next(iter(found)).objects[0].point_coords == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.json file in the folder .*empty"):
        read_labels(tmp_path / "empty", "sa1b")
    document = sa1b_document()
    document["image"]["image_id"] = "sa_3"
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert next(iter(found)).image_id is None
    (alone,) = read_labels(tmp_path / "sub" / "b.json", "sa1b")
    assert alone.file_name == "sa_3.jpg" and alone.objects[0].class_id == 2


B = r"a\.json: annotations\[0\]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, rf"{B}\.segmentation: an RLE is a dict"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, rf"{B}\.segmentation: its size is \[5, 5\]"),
        ({"segmentation": "gone"}, rf"{B}: 'segmentation' is missing"),
        ({"predicted_iou": "x"}, rf"{B}\.predicted_iou: a finite number"),
        ({"point_coords": [[1, 2, 3]]}, rf"{B}\.point_coords\[0\]: a list of 2 finite numbers"),
        ({"crop_box": [1]}, rf"{B}\.crop_box: a list of 4"),
        ({"class_id": -1}, rf"{B}\.class_id: a class id is"),
    ],
)
def test_wrong_sa1b_fields_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(sa1b_document(**changes)))
    refused("sa1b", tmp_path, message)


def test_contradictory_sa1b_class_names_are_refused(tmp_path: Path) -> None:
    for name_ in ("a", "b"):
        (tmp_path / f"{name_}.json").write_text(json.dumps(sa1b_document(class_name=name_)))
    refused("sa1b", tmp_path, r"b\.json: annotations\[0\]\.class_name: class 0 is 'b' here, but elsewhere 'a'")


# --------------------------------------------------------------------------------------------------------------- either


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"labels\.json is empty"),
        (b" \r\n", r"labels\.json is empty"),
        (b'{"images": [\n  }', r"labels\.json, line 2, column 3: not JSON: Expecting value"),
        (b'{"images": NaN}', r"labels\.json: NaN is not a number in JSON"),
        (b'{"images": -Infinity}', r"labels\.json: -Infinity is not"),
        (b"[" * 100_000, r"labels\.json: lists or objects are nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", r"labels\.json: Exceeds the limit"),
        (b'{"a": "\xff"}', r"labels\.json is not UTF-8 text"),
        (b"[]", r"labels\.json: a JSON object is needed, not 'list'"),
    ],
)
@pytest.mark.parametrize("kind", ["coco", "sa1b"])
def test_invalid_json_files_are_refused(tmp_path: Path, kind: str, text: bytes, message: str) -> None:
    (tmp_path / "labels.json").write_bytes(text)
    refused(kind, tmp_path / "labels.json", message)
