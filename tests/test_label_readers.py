"""Label files of other people: what is forgiven, and what is refused by file and line or field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastsam_core.formats import class_names, read_labels, yolo_folder
from fastsam_core.formats.labels import ImageLabels, LabelledObject
from fastsam_core.formats.segmentation import Segmentation
from label_examples import encoded, filled, pixels

SIZE = (40, 50)


def coco_file(folder: Path, **changes: Any) -> Path:
    """A good file of one image with one annotation, but for the changes to that annotation."""
    annotation = {"id": 1, "image_id": 9, "category_id": 4, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]}
    annotation = {key: value for key, value in {**annotation, **changes}.items() if value != "gone"}
    document = {
        "images": [{"id": 9, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 4, "name": "cat"}],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return folder / "labels.json"


def refused(kind: str, source: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        list(read_labels(source, kind))
    assert re.search(message, str(caught.value)), str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- YOLO


def yolo_text(folder: Path, text: str | bytes, **options: Any) -> ImageLabels:
    Image.new("L", SIZE[::-1]).save(folder / "a.png")
    (folder / "a.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    (labels,) = read_labels(folder, "yolo", **options)
    return labels


SQUARE = "0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"


@pytest.mark.parametrize(
    "text",
    [
        f"3 {SQUARE}\n",
        f"3 {SQUARE}",
        f"3 {SQUARE}\r\n",
        f"\r\n  3\t{SQUARE.replace(' ', '   ')} \r\n\r\n",
        f"3 {SQUARE}\r",
        f"\ufeff3 {SQUARE}\n",
        f"3.0 {SQUARE}\n",
        f"3 {SQUARE} 0.75\n",
    ],
)
def test_yolo_spellings(tmp_path: Path, text: str) -> None:
    labels = yolo_text(tmp_path, text)
    (found,) = labels.objects
    assert (labels.file_name, labels.size, found.class_id) == ("a.png", SIZE, 3)
    assert found.score == (0.75 if "0.75" in text else None)
    np.testing.assert_array_equal(pixels(labels, 0), filled([[5, 4, 25, 4, 25, 20, 5, 20]], *SIZE))


def test_yolo_boxes(tmp_path: Path) -> None:
    labels = yolo_text(tmp_path, "1 0.5 0.5 0.2 0.1\n2 0.1 0.5 0.4 0.2 0.25\n")
    assert [found.class_id for found in labels.objects] == [1, 2]
    assert labels.objects[0].box == pytest.approx((20, 18, 30, 22)) and labels.objects[0].score is None
    # What lies outside the picture is cut off.
    assert labels.objects[1].box == pytest.approx((0, 16, 15, 24)) and labels.objects[1].score == 0.25


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 0.1 0.1 0.2 0.2", r"a\.txt, line 2: could not convert string to float: 'cat'; a line is a class id"),
        ("0 0.1 0.2 0.3", r"a\.txt, line 2: 4 numbers; a box has 5, a polygon 7 or more"),
        ("0", r"line 2: 1 numbers"),
        ("0 nan 0.1 0.2 0.2", r"line 2: nan lies outside \[0, 1\]"),
        ("0 inf 0.1 0.2 0.2", r"line 2: inf lies outside"),
        ("0 1e999 0.1 0.2 0.2", r"line 2: inf lies outside"),
        ("0 120 80 40 30", r"line 2: 120 lies outside \[0, 1\]; coordinates are fractions"),
        ("0 0.5 0.5 -0.005 0.1", r"line 2: the box is -0.005 wide"),
        (f"-1 {SQUARE}", r"line 2: a class id is a whole number from 0 to 999999, not -1"),
        (f"1.5 {SQUARE}", r"line 2: a class id is a whole number, not '1.5'"),
        (f"1e30 {SQUARE}", r"line 2: a class id is a whole number from 0"),
        (f"nan {SQUARE}", r"line 2: a class id is a whole number, not 'nan'"),
        (f"0 {SQUARE} 7", r"line 2: 10 numbers, the last of which is no score: 7 lies outside"),
    ],
)
def test_yolo_lines_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(f"0 {SQUARE}\n{line}\n")
    refused("yolo", tmp_path, message)


def test_yolo_files_that_are_no_text(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"0 0.1 \xff\xfe")
    refused("yolo", tmp_path, r"a\.txt is not UTF-8 text: invalid start byte at byte 6")


@pytest.mark.parametrize("layout", ["beside", "labels and images", "the root", "other names"])
def test_yolo_folders(tmp_path: Path, layout: str) -> None:
    labels, images = {
        "beside": (tmp_path, tmp_path),
        "labels and images": (tmp_path / "labels" / "train", tmp_path / "images" / "train"),
        "the root": (tmp_path / "labels", tmp_path / "images"),
        "other names": (tmp_path / "a", tmp_path / "b"),
    }[layout]
    for name in ("2.png", "sub/1.png", "sub/3.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (labels / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (30, 20)).save(images / name)
    (labels / "2.txt").write_text("")
    (labels / "sub" / "1.txt").write_text(f"1 {SQUARE}\n")
    (labels / ".1.txt").write_text("left by a crash")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    source = tmp_path if layout == "the root" else labels
    found = read_labels(source, "yolo", **({"images": images} if layout == "other names" else {}))
    assert len(found) == 3 and found.names == {0: "cat", 1: "dog"}
    assert [(one.file_name, one.size, len(one.objects)) for one in found] == [
        ("2.png", (20, 30), 0),
        ("sub/1.png", (20, 30), 1),
        ("sub/3.png", (20, 30), 0),  # without a label file
    ]
    assert len(list(found)) == 3  # once more


def test_yolo_labels_without_an_image(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("")
    refused("yolo", tmp_path, r"no image b\.\* in .* for .*b\.txt; say images=", FileNotFoundError)
    (tmp_path / "b.txt").rename(tmp_path / "a.txt")
    Image.new("L", (4, 4)).save(tmp_path / "a.bmp")
    refused("yolo", tmp_path, r"a\.txt may belong to any of a\.bmp, a\.png")
    (tmp_path / "a.bmp").write_bytes(b"BM nothing")
    (tmp_path / "a.png").unlink()
    refused("yolo", tmp_path, r"a\.bmp: damaged BMP header")
    refused("yolo", tmp_path / "nowhere", "no such folder", NotADirectoryError)


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.png", "c.webp", "d.tif"):
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    # Pillow puts a PNG's orientation before the pixels; it may as well come after them.
    data = (tmp_path / "b.png").read_bytes()
    start = data.index(b"eXIf") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    end = data.index(b"IEND") - 4
    chunk, rest = data[start : start + length], data[start + length : end]
    (tmp_path / "e.png").write_bytes(data[:start] + rest + chunk + data[end:])
    Image.new("RGB", (30, 20)).save(tmp_path / "f.png")
    sizes = [one.size for one in read_labels(tmp_path, "yolo")]
    assert sizes == [(30, 20)] * 5 + [(20, 30)]


# --------------------------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(
    "text",
    [
        "names: [a cat, 'it''s', \"d\\\"g\\u00e9\"]\n",
        "path: x\nnames:\n  - a cat\n  - 'it''s'   # a comment\n  - \"d\\\"g\\u00e9\"\nnc: 3\n",
        "names:\n- a cat\n- 'it''s'\n- \"d\\\"g\\u00e9\"\nnc: 3\n",
        "nc: 3\n\nnames:\n  0: a cat\n\n  1: it's\n  2: d\"g\u00e9\n",
        "names: {0: a cat, 1: 'it''s', 2: \"d\\\"g\\u00e9\"}",
        "names: [a cat,\n  'it''s',\n  \"d\\\"g\\u00e9\",\n]\nnc: 3\n",
        "\ufeff# all\r\n\"names\":\r\n  0: a cat\r\n  1: 'it''s'\r\n  2: 'd\"g\u00e9'\r\n",
    ],
)
def test_names_in_yaml(tmp_path: Path, text: str) -> None:
    import yaml

    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    assert class_names.read(tmp_path / "data.yaml") == {0: "a cat", 1: "it's", 2: 'd"gé'}
    theirs = yaml.safe_load(text)["names"]
    assert (list(theirs.values()) if isinstance(theirs, dict) else theirs) == ["a cat", "it's", 'd"gé']


@pytest.mark.parametrize(
    "text", ["names: {a: cat}", "names: {0}", "names: [a: b]", "names: cats.txt", "names: [a", "names:\n  cat"]
)
def test_names_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"data.yaml: its names can't be read .*write one `0: name` a line"):
        class_names.read(tmp_path / "data.yaml")


name = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(names=st.dictionaries(st.integers(0, 99), name, max_size=5))
@example(names={0: "  ", 1: "#", 2: "a: b", 3: "\x85\u2028", 4: "'\"\\", 5: "no", 6: "😀"})
def test_names_there_and_back(names: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    import yaml

    path = tmp_path_factory.mktemp("names") / "data.yaml"
    class_names.write(path, names)
    assert class_names.read(path) == names
    printable = {key: text for key, text in names.items() if text.isprintable()}
    if printable == names:
        assert (yaml.safe_load(path.read_text(encoding="utf-8"))["names"] or {}) == names


def test_names_from_text_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\r\nbig dog\r\n\r\n")
    labels = yolo_text(tmp_path, "")
    assert labels.names == {0: "cat", 1: "big dog"}
    for given_ in (["x", "y"], {0: "x", 1: "y"}):
        assert yolo_text(tmp_path, "", names=given_).names == {0: "x", 1: "y"}
    assert yolo_text(tmp_path, "", names=tmp_path / "classes.txt").names == {0: "cat", 1: "big dog"}


# ---------------------------------------------------------------------------------------------------------------- COCO


def test_coco_kinds_of_segmentation(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[3:9, 5:30] = True
    code = encoded(mask)
    counts = [5 * 40 + 3, *([6, 34] * 24), 6, 40 * 50 - 5 * 40 - 3 - 24 * 40 - 6]
    for segmentation in (
        code,
        {"size": [40, 50], "counts": counts},
        [[5, 3, 30, 3, 30, 9, 5, 9]],
        [[5, 3, 20, 3, 20, 9, 5, 9], [15.0, 3, 30, 3, 30, 9, 15, 9]],
    ):
        (labels,) = read_labels(coco_file(tmp_path, segmentation=segmentation), "coco")
        np.testing.assert_array_equal(pixels(labels, 0), mask)
        (found,) = labels.objects
        assert (found.class_id, found.box, found.score, found.iscrowd) == (0, (1, 2, 4, 6), None, False)
    assert (labels.image_id, labels.names, labels.size) == (9, {0: "cat"}, SIZE)
    for segmentation in ([], None, "gone"):
        (labels,) = read_labels(coco_file(tmp_path, segmentation=segmentation), "coco")
        assert labels.objects[0].segmentation is None and labels.objects[0].corners() == (1, 2, 4, 6)


def test_coco_classes_count_categories(tmp_path: Path) -> None:
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
        ({"image_id": "9"}, rf"{A}\.image_id: a whole number is needed, not '9'"),
        ({"image_id": True}, rf"{A}\.image_id: a whole number"),
        ({"category_id": 5}, rf"{A}\.category_id: no category has the id 5"),
        ({"bbox": [1, 2, 3]}, rf"{A}\.bbox: a list of 4 finite numbers is needed, not 'list' of 3"),
        ({"bbox": [1, 2, 3, "4"]}, rf"{A}\.bbox: a list of 4 finite"),
        ({"bbox": [1, 2, -3, 4]}, rf"{A}: the box .* second corner left of"),
        ({"bbox": "1 2 3 4"}, rf"{A}\.bbox: a list of 4 finite numbers is needed, not '1 2 3 4'"),
        ({"bbox": [10**400, 0, 1, 1]}, rf"{A}\.bbox: a list of 4 finite numbers is needed"),
        ({"segmentation": [[1, 2, 3, 4]]}, rf"{A}\.segmentation\[0\]: 4 numbers; a polygon has an even number"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, rf"{A}\.segmentation\[0\]: 7 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e30]]}, rf"{A}\.segmentation: polygon coordinates must be finite"),
        ({"segmentation": [[1, 2, 3, 4, 5, True]]}, rf"{A}\.segmentation\[0\]: a list of finite numbers"),
        ({"segmentation": 5}, rf"{A}\.segmentation: a list is needed, not '5'"),
        ({"segmentation": {"counts": "abc", "size": [40, 50]}}, rf"{A}\.segmentation: malformed RLE"),
        ({"segmentation": {"counts": [3], "size": [40, 50]}}, rf"{A}\.segmentation: the runs sum to 3"),
        ({"segmentation": {"counts": [2000], "size": [50, 40]}}, rf"{A}\.segmentation: its size is \[50, 40\]"),
        ({"segmentation": {"counts": [0], "size": [1 << 40, 1 << 40]}}, rf"{A}\.segmentation: "),
        ({"segmentation": {"size": [40, 50]}}, rf"{A}\.segmentation: an RLE needs the keys"),
        ({"score": "high"}, rf"{A}\.score: a finite number is needed, not 'high'"),
        ({"segmentation": "gone", "bbox": "gone"}, rf"{A}: an object needs a segmentation or a box"),
    ],
)
def test_coco_fields_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    refused("coco", coco_file(tmp_path, **changes), message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 0, "width"), 0, r"images\[0\]\.width: width must be a whole number of pixels from 1 to 1000000"),
        (("images", 0, "height"), 1e300, r"images\[0\]\.height: height must be a whole number"),
        (("images", 0, "height"), None, r"images\[0\]: 'height' is missing"),
        (("images", 0, "file_name"), "", r"images\[0\]\.file_name: text is needed"),
        (("images",), {}, r"images: a list is needed, not 'dict'"),
        (("images", 0), [], r"images\[0\]: a JSON object is needed"),
        (("categories", 0, "name"), 3, r"categories\[0\]\.name: text is needed, not '3'"),
        (("categories",), [{"id": 4, "name": "a"}] * 2, r"categories\[1\]\.id: another category has the id 4 too"),
        (("annotations",), None, r"labels\.json: 'annotations' is missing"),
    ],
)
def test_coco_files_that_are_refused(tmp_path: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    document = json.loads(coco_file(tmp_path).read_text())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "labels.json").write_text(json.dumps(document))
    refused("coco", tmp_path / "labels.json", message)


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
def test_files_that_are_no_json(tmp_path: Path, kind: str, text: bytes, message: str) -> None:
    (tmp_path / "labels.json").write_bytes(text)
    refused(kind, tmp_path / "labels.json", message)


# --------------------------------------------------------------------------------------------------------------- SA-1B


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


def test_sa1b_folders(tmp_path: Path) -> None:
    for place, document in (
        ("sub/b.json", sa1b_document(class_id=2, class_name="dog")),
        ("a.json", sa1b_document(predicted_iou="gone", point_coords="gone", crop_box=None)),
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(json.dumps(document))
    found = read_labels(tmp_path, "sa1b")
    first, second = found
    assert len(found) == 2 and (first.file_name, second.file_name) == ("sa_3.jpg", "sub/sa_3.jpg")
    assert found.names == {2: "dog"} and first.image_id == 3
    (one,), (other,) = first.objects, second.objects
    assert (one.class_id, one.predicted_iou, one.point_coords, one.crop_box) == (0, None, None, None)
    assert (other.class_id, other.predicted_iou, other.stability_score) == (2, 0.9, 0.95)
    assert other.point_coords == [[1.5, 2]] and other.crop_box == [0, 0, 6, 6]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.json file in the folder .*empty"):
        read_labels(tmp_path / "empty", "sa1b")
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
def test_sa1b_fields_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(sa1b_document(**changes)))
    refused("sa1b", tmp_path, message)


def test_sa1b_classes_that_contradict_each_other(tmp_path: Path) -> None:
    for name_ in ("a", "b"):
        (tmp_path / f"{name_}.json").write_text(json.dumps(sa1b_document(class_name=name_)))
    refused("sa1b", tmp_path, r"b\.json: annotations\[0\]\.class_name: class 0 is 'b' here, but elsewhere 'a'")


# ----------------------------------------------------------------------------------------------- anything, and records

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


@settings(max_examples=150, deadline=None)
@given(line=st.text(st.sampled_from("0123456789 .-+eE\tnaif_#x\u0661"), max_size=40))
def test_any_yolo_line_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    path = tmp_path_factory.mktemp("any") / "a.txt"
    path.write_text(line, encoding="utf-8")
    try:
        objects = yolo_folder.read_file(path, SIZE)
    except ValueError as error:
        assert "a.txt, line 1: " in str(error)
    else:
        assert len(objects) == (1 if line.strip() else 0)


def test_records_are_checked() -> None:
    mask = Segmentation.from_rle(encoded(np.eye(4, dtype=bool)))
    with pytest.raises(ValueError, match=r"object 0 has a mask of 4 x 4, but a\.jpg is 5 x 4"):
        ImageLabels("a.jpg", 4, 5, [LabelledObject(0, mask)])
    for arguments, message in (
        ({"class_id": True}, "a class id is"),
        ({"class_id": 10**6}, "a class id is"),
        ({"class_id": 0, "segmentation": None}, "needs a segmentation or a box"),
        ({"class_id": 0, "score": float("nan")}, "score must be 1 finite number"),
        ({"class_id": 0, "box": (1, 2, 3)}, "box must be 4 finite numbers"),
        ({"class_id": 0, "point_coords": [[1, float("inf")]]}, "point_coords must be 2"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelledObject(**{"segmentation": mask, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="file_name must be"):
        ImageLabels("", 4, 4)
    for polygons in ([], [[(0, 0), (1, 1)]], [[0, 0, 1, 1, 2, 2]], [[(0, 0), (1, 0), (1, float("nan"))]]):
        with pytest.raises(ValueError, match="polygon"):
            Segmentation.from_polygons(polygons, (4, 4))
