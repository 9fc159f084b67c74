"""Tests of data sets with ground-truth masks: their four forms, reported failures and refused input."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fastsam_core.evaluate import datasets, label_maps
from fastsam_core.evaluate.datasets import Example, open_dataset
from fastsam_core.formats import CocoWriter, ImageLabels, LabelledObject, Segmentation
from label_examples import encoded
from small_model import bgr_image

HEIGHT, WIDTH = 20, 30


def labels_of(*numbers: int, dtype: Any = np.uint8) -> np.ndarray:
    """Return a label map with a block of 4 x 5 pixels for each number."""
    found = np.zeros((HEIGHT, WIDTH), dtype)
    for place, number in enumerate(numbers):
        found[8:12, 6 * place : 6 * place + 5] = number
    return found


def block(place: int) -> np.ndarray:
    return labels_of(*range(1, place + 2)) == place + 1


def folder(place: Path, kind: str, *names: str) -> Path:
    for name in names:
        (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / "images" / name), bgr_image(HEIGHT, WIDTH))
    (place / kind).mkdir(parents=True, exist_ok=True)
    return place


def write_npz(path: Path, labels: np.ndarray, segments: Any, **more: Any) -> None:
    text = segments if isinstance(segments, str) else json.dumps(segments)
    np.savez_compressed(path, labels=labels, segments=np.array(text), **more)


def masks_of(example: Example) -> dict[str, np.ndarray]:
    return {found.name: np.asarray(coco.decode(found.rle)).astype(bool) for found in example.objects}


def only_example(place: Path, images: Path | None = None) -> Example:
    data = open_dataset(place, images)
    assert len(data) == 1
    return data[0]


# --- PNG files ---


def test_png_label_maps(tmp_path: Path) -> None:
    folder(tmp_path, "masks", "a.png", "b.jpg", "sub/c.png", "d.png", "e.png")
    Image.fromarray(labels_of(1, 200, 255)).save(tmp_path / "masks" / "a.png")
    Image.fromarray(labels_of(300, 65_000, dtype=np.uint16)).save(tmp_path / "masks" / "b.png")
    (tmp_path / "masks" / "sub").mkdir()
    Image.fromarray(labels_of(255)).save(tmp_path / "masks" / "sub" / "c.png")
    palette = Image.fromarray(labels_of(4, 255, 2)).convert("P")
    palette.putdata(labels_of(4, 255, 2).ravel().tolist())
    palette.save(tmp_path / "masks" / "d.png")
    Image.fromarray(labels_of(1) > 0).save(tmp_path / "masks" / "e.png")
    data = open_dataset(tmp_path)
    assert data.names == ["a.png", "b.jpg", "d.png", "e.png", "sub/c.png"] and not list(data.unmatched_label_files())
    found = {data.names[index]: masks_of(data[index]) for index in range(len(data))}
    # In palette images, 255 is no object.
    numbers = {"a.png": "1 200 255", "b.jpg": "300 65000", "d.png": "2 4", "e.png": "255", "sub/c.png": "255"}
    assert {name: " ".join(masks) for name, masks in found.items()} == numbers
    np.testing.assert_array_equal(found["a.png"]["200"], block(1))
    np.testing.assert_array_equal(found["d.png"]["2"], block(2))
    np.testing.assert_array_equal(found["sub/c.png"]["255"], block(0))
    np.testing.assert_array_equal(data[0].pixels, bgr_image(HEIGHT, WIDTH))


def test_grey_label_maps_may_be_stored_in_colour(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    grey = Image.fromarray(labels_of(1, 200, 255))
    for mode in ("RGB", "RGBA", "LA"):
        grey.convert(mode).save(path)
        np.testing.assert_array_equal(label_maps.read_png(path), labels_of(1, 200, 255))
    transparent = grey.convert("LA")
    transparent.putalpha(grey)
    for image in (
        transparent,
        transparent.convert("RGBA"),
        Image.merge("RGB", [grey, grey, Image.fromarray(labels_of(1, 200))]),
    ):
        image.save(path)
        with pytest.raises(ValueError, match=r"a\.png is in colour"):
            label_maps.read_png(path)
    # Pillow would read the high bytes only.
    cv2.imwrite(str(path), np.repeat(labels_of(1, 2)[..., None], 3, 2).astype(np.uint16))
    with pytest.raises(ValueError, match=r"a\.png is in colour \(RGB\)"):
        label_maps.read_png(path)


def test_images_without_usable_masks_are_reported(tmp_path: Path) -> None:
    folder(tmp_path, "masks", "a.png", "b.png", "c.png", "d.png", "d.jpg", "e.png", "f.png", "g.png")
    good = Image.fromarray(labels_of(1))
    for name in "adef":
        good.save(tmp_path / "masks" / f"{name}.png")
    good.save(tmp_path / "masks" / "lonely.png")
    Image.merge("RGB", [good, good, good.point(lambda value: 2 * value)]).save(tmp_path / "masks" / "b.png")
    Image.fromarray(labels_of(1)[:, 1:]).save(tmp_path / "masks" / "e.png")
    (tmp_path / "images" / "f.png").write_bytes(b"broken")
    (tmp_path / "masks" / "g.png").write_bytes((tmp_path / "masks" / "a.png").read_bytes()[:60])
    data = open_dataset(tmp_path)
    reasons = {}
    for index in range(len(data)):
        example = data[index]
        assert (example.pixels is None) == bool(example.failures)
        for failure in example.failures:
            assert failure.object is None and not example.objects
            reasons[failure.image] = failure.reason
    assert reasons.keys() == {"b.png", "c.png", "d.jpg", "d.png", "e.png", "f.png", "g.png"}
    assert "in colour (RGB)" in reasons["b.png"] and "has no c.png" in reasons["c.png"]
    assert "any of d.jpg, d.png" in reasons["d.jpg"] and "20 x 29, but the image is 20 x 30" in reasons["e.png"]
    assert "not an image" in reasons["f.png"] and "g.png is damaged" in reasons["g.png"]
    (stray,) = data.unmatched_label_files()
    assert stray.image == "lonely.png" and "no image of its name" in stray.reason


# --- .npz files ---


def test_npz_label_maps(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.jpg")
    segments = [
        {"label": 1, "isthing": 1, "iscrowd": 0},
        {"label": 2, "isthing": 0, "iscrowd": 0},  # stuff
        {"label": 3, "isthing": 1, "iscrowd": 1},
        {"label": 4},
        {"label": 9, "isthing": 1, "iscrowd": 0},  # without a pixel
    ]
    write_npz(tmp_path / "labels" / "a.npz", labels_of(1, 2, 3, 4, dtype=np.uint16), segments, more=np.zeros(3))
    example = only_example(tmp_path)
    found = masks_of(example)
    assert list(found) == ["1", "4"] and example.crowds == 1
    np.testing.assert_array_equal(found["4"], block(3))
    (failure,) = example.failures
    assert failure.object == "9" and "no pixel of a.npz" in failure.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": labels_of(1)[1:], "segments": np.array("[]")}, "integers of shape (20, 30) are needed"),
        ({"labels": labels_of(1).astype(float), "segments": np.array("[]")}, "labels is float64"),
        ({"labels": labels_of(1), "segments": np.array(["[]"])}, "a single string"),
        ({"labels": labels_of(1), "segments": np.array(3)}, "a single string"),
        ({"labels": labels_of(1)}, "segments.npy"),
        ({"labels": labels_of(1), "segments": np.array("[")}, "not JSON"),
        ({"labels": labels_of(1), "segments": np.array("[1]")}, "list of JSON objects"),
        ({"labels": labels_of(1), "segments": np.array('[{"label": "1"}]')}, "segments[0]"),
        ({"labels": labels_of(1), "segments": np.array('[{"label": 1}, {"label": 1}]')}, "segments[1]"),
        ({"labels": labels_of(1), "segments": np.array('[{"label": 1, "iscrowd": "0"}]')}, "iscrowd must be 0 or 1"),
        ({"labels": labels_of(1), "segments": np.array('[{"label": 1, "isthing": 2}]')}, "isthing must be 0 or 1"),
        ({"labels": labels_of(1), "segments": np.array({"label": 1}, dtype=object)}, "a single string"),
        (b"PK but no archive", "not an .npz file"),
        (b"", "not an .npz file"),
    ],
)
def test_invalid_npz_files_are_reported(tmp_path: Path, content: Any, message: str) -> None:
    folder(tmp_path, "labels", "a.jpg")
    path = tmp_path / "labels" / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    example = only_example(tmp_path)
    (failure,) = example.failures
    assert example.pixels is None and failure.image == "a.jpg" and message in failure.reason


def test_damaged_npz_files_never_crash(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.jpg")
    path = tmp_path / "labels" / "a.npz"
    write_npz(path, np.random.default_rng(0).integers(0, 9, (HEIGHT, WIDTH)), [{"label": 1}])
    whole = path.read_bytes()
    for cut in (30, 90, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        assert only_example(tmp_path).failures
    for place in range(40, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        example = only_example(tmp_path)  # damage may go unnoticed, but never crashes
        assert example.failures or example.objects
    directory = whole.rindex(b"PK\x05\x06")
    path.write_bytes(whole[: directory + 16] + b"\xff" * 4 + whole[directory + 20 :])  # an offset before the file
    (failure,) = only_example(tmp_path).failures
    assert "a.npz is not an .npz file" in failure.reason


# --- COCO ---


def test_coco_masks_crowds_and_polygons(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.jpg", "sub/b.jpg")
    objects = [
        LabelledObject(0, Segmentation.from_rle(encoded(block(0)))),
        LabelledObject(1, Segmentation.from_rle(encoded(block(1))), iscrowd=True),
        LabelledObject(1, box=(1.0, 1.0, 5.0, 5.0)),
    ]
    square = [np.array([[6, 8], [11, 8], [11, 12], [6, 12]])]
    more = [LabelledObject(0, Segmentation.from_polygons(square, (HEIGHT, WIDTH)))]
    with CocoWriter(tmp_path / "labels.json") as writer:
        writer.write(ImageLabels("a.jpg", WIDTH, HEIGHT, objects))
        writer.write(ImageLabels("sub\\b.jpg", WIDTH, HEIGHT, more))  # as on Windows
    data = open_dataset(str(tmp_path / "labels.json"), str(tmp_path / "images"))
    assert data.names == ["a.jpg", "sub/b.jpg"]
    first, second = data[0], data[1]
    (found,) = masks_of(first).values()
    np.testing.assert_array_equal(found, block(0))
    assert first.crowds == 1 and [failure.reason for failure in first.failures] == ["it has a box but no mask"]
    (found,) = masks_of(second).values()
    np.testing.assert_array_equal(found, block(1))


def test_wrong_objects_of_a_coco_file_are_reported(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.jpg", "b.jpg")
    path = tmp_path / "labels.json"
    good = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": encoded(block(0))}
    wrong = [
        {**good, "segmentation": [[1, 2, 3, 4]]},
        {**good, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "zz"}},
        {**good, "category_id": 7},
        {**good, "segmentation": encoded(block(0)[1:])},
    ]
    images = [
        {"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "b.jpg", "height": HEIGHT, "width": WIDTH + 1},
        {"id": 3, "file_name": "c.jpg", "height": HEIGHT, "width": WIDTH},
    ]
    whole: dict[str, Any] = {"images": images, "categories": [{"id": 1, "name": "object"}]}
    path.write_text(json.dumps({**whole, "annotations": [wrong[0], good, *wrong[1:]]}))
    data = open_dataset(path, tmp_path / "images")
    example = data[0]
    assert list(masks_of(example)) == ["object 0"] and example.pixels is not None
    places = [failure.object for failure in example.failures]
    assert places == ["annotations[0]", "annotations[2]", "annotations[3]", "annotations[4]"]
    assert "a polygon has an even number" in example.failures[0].reason
    for index, message in ((1, "20 x 31, but the image is 20 x 30"), (2, "no such file")):
        (failure,) = data[index].failures
        assert failure.object is None and message in failure.reason
    # Annotations of unknown images and missing fields make the whole file invalid.
    for entry, message in (({**good, "image_id": 9}, "no image has the id 9"), ({"id": 3}, "'image_id' is missing")):
        path.write_text(json.dumps({**whole, "annotations": [entry]}))
        with pytest.raises(ValueError, match=message):
            open_dataset(path, tmp_path / "images")


def test_image_names_may_be_absolute_or_begin_with_the_folder(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.png", "b.png", "c.png", "sub/d.png")
    names = ["/elsewhere/a.png", "C:\\data\\b.png", "/x/c.png", "/y/c.png", str(tmp_path / "images" / "sub" / "d.png")]
    names += ["images/c.png", "images/sub/d.png", "other/c.png"]
    with CocoWriter(tmp_path / "labels.json") as writer:
        for name in names:
            writer.write(ImageLabels(name, WIDTH, HEIGHT))
    data = open_dataset(tmp_path / "labels.json", tmp_path / "images")
    assert [data[index].pixels is not None for index in range(8)] == [
        *[True, True, False, False, True],
        *[True, True, False],
    ]
    assert data[2].failures[0].reason.endswith("no such file: /x/c.png")  # there are two of this name


# --- YOLO ---


def yolo_line(place: int) -> str:
    """Return the block's outline along its pixels' edges, as fractions of width and height."""
    x1, x2, y1, y2 = 6 * place / WIDTH, (6 * place + 5) / WIDTH, 8 / HEIGHT, 12 / HEIGHT
    return f"0 {x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2}\n"


@pytest.mark.parametrize(
    ("image_folder", "label_folder", "data", "images"),
    [
        ("images", "labels", "", None),
        ("images", "labels", "labels", None),
        ("set", "set", "set", None),
        ("photos", "set", "set", "photos"),
        ("photos", "labels", "", "photos"),
    ],
)
def test_yolo_labels_in_each_folder_layout(
    tmp_path: Path, image_folder: str, label_folder: str, data: str, images: str | None
) -> None:
    for name in ("a.jpg", "sub/b.jpg", "c.jpg", "d.jpg"):
        for place in (image_folder, label_folder):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / image_folder / name), bgr_image(HEIGHT, WIDTH))
    write = {"a": yolo_line(0) + yolo_line(2), "sub/b": yolo_line(1) + "0 0.5 0.5 0.2 0.2\n", "d": ""}
    for name, text in {**write, "lonely": yolo_line(0), "classes": "thing\n"}.items():
        (tmp_path / label_folder / f"{name}.txt").write_text(text)
    found = open_dataset(tmp_path / data, None if images is None else tmp_path / images)
    assert found.names == ["a.jpg", "c.jpg", "d.jpg", "sub/b.jpg"] and found.labelled_indices() == [0, 3]
    for index, blocks in ((0, (0, 2)), (1, ()), (2, ()), (3, (1,))):
        masks = list(masks_of(found[index]).values())
        assert len(masks) == len(blocks) and found[index].pixels is not None
        for mask, number in zip(masks, blocks, strict=True):
            np.testing.assert_array_equal(mask, block(number))
    assert [(one.object, one.reason) for one in found[3].failures] == [("object 1", "it has a box but no mask")]
    (stray,) = found.unmatched_label_files()
    assert stray.image == "lonely.txt" and "no image lonely.*" in stray.reason


def test_wrong_lines_and_names_of_a_yolo_folder_are_reported(tmp_path: Path) -> None:
    folder(tmp_path, "labels", "a.jpg", "b.jpg", "b.png")
    for name in "ab":
        (tmp_path / "labels" / f"{name}.txt").write_text(yolo_line(0) + "0 0.5 2 0.2 0.2 0.1 0.1\n")
    data = open_dataset(tmp_path)
    (failure,) = data[0].failures
    assert failure.object is None and "a.txt, line 2: 2 lies outside" in failure.reason and data[0].pixels is None
    (stray,) = data.unmatched_label_files()
    assert "any of b.jpg, b.png" in stray.reason and data.labelled_indices() == [0] and not data[1].objects


@pytest.mark.parametrize(("kind", "suffix"), [("masks", "PNG"), ("labels", "NPZ"), ("labels", "TXT")])
def test_label_files_may_have_upper_case_suffixes(tmp_path: Path, kind: str, suffix: str) -> None:
    made, labels = folder(tmp_path, "made") / "made", folder(tmp_path, kind, "a.jpg") / kind
    Image.fromarray(labels_of(0, 1)).save(made / "a.png")
    write_npz(made / "a.npz", labels_of(0, 1), [{"label": 1}])
    (made / "a.txt").write_text(yolo_line(1))
    for stem in ("a", "lonely"):
        shutil.copy(made / f"a.{suffix.lower()}", labels / f"{stem}.{suffix}")
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(list(masks_of(data[0]).values()), [block(1)])
    assert [failure.image for failure in data.unmatched_label_files()] == [f"lonely.{suffix}"]


def test_labelled_images_are_found_without_opening_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "png", "masks", "a.jpg", "b.jpg")
    Image.fromarray(labels_of(1)).save(tmp_path / "png" / "masks" / "b.png")
    size = {"height": HEIGHT, "width": WIDTH}
    crowd = {"image_id": 2, "category_id": 1, "segmentation": encoded(block(0)), "iscrowd": 1}
    boxes = {"image_id": 3, "category_id": 1, "segmentation": [], "bbox": [1, 1, 2, 2]}
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", **size} for k in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            crowd,
            boxes,
            *({**boxes, "segmentation": none} for none in (None, [[]])),
            {**crowd, "image_id": 4, "iscrowd": 0},
        ],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))

    def refused(*arguments: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(datasets, "read_image", refused)
    assert open_dataset(tmp_path / "png").labelled_indices() == [1]
    assert open_dataset(tmp_path / "labels.json", tmp_path / "png").labelled_indices() == [3]


# --- other things ---


def test_folders_and_files_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "both", "masks", "a.png")
    folder(tmp_path / "both", "labels")
    folder(tmp_path / "unmatched", "masks", "a.png")
    folder(tmp_path / "yolo", "labels", "a.png")
    (tmp_path / "yolo" / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    folder(tmp_path / "bare", "photos", "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "none.json").write_text('{"images": [], "annotations": [], "categories": []}')
    for name, images, message in (
        ("both", None, "both masks/ and labels/"),
        ("unmatched", None, "no image in"),
        ("yolo", None, "no image in"),
        ("bare", None, "holds images, photos"),
        ("empty", None, "holds nothing"),
        ("notes.txt", None, "neither a .json file, a .yaml file nor a folder"),
        ("none.json", None, "give images="),
        ("both", tmp_path / "both" / "images", "goes with a COCO file"),
    ):
        with pytest.raises(ValueError) as caught:
            open_dataset(tmp_path / name, images)
        text = str(caught.value)
        assert message in text and "COCO .json" in text and "masks/" in text and "labels/" in text, text
    with pytest.raises(ValueError, match="lists no images"):
        open_dataset(tmp_path / "none.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing.*accepted"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_dataset(tmp_path / "none.json", tmp_path / "missing")
    with pytest.raises(TypeError, match="data must be a path, not list"):
        open_dataset([1])
    with pytest.raises(TypeError, match="images must be a path"):
        open_dataset(tmp_path / "none.json", 3)


def test_npz_shape_is_checked_before_reading_the_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, labels_of(1), [{"label": 1}])

    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("read")

    monkeypatch.setattr(np, "load", refused)
    with pytest.raises(ValueError, match="are needed"):
        label_maps.read_npz(path, (HEIGHT, WIDTH + 1))
    with pytest.raises(AssertionError, match="read"):
        label_maps.read_npz(path, (HEIGHT, WIDTH))


def test_huge_npz_header_uses_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", b"\x93NUMPY\2\0" + (10**7).to_bytes(4, "little") + b" " * 10**7)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.npz: labels\.npy .* format \(2, 0\)"):
            label_maps.read_npz(path, (HEIGHT, WIDTH))
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_images_removed_after_opening_are_reported(tmp_path: Path) -> None:
    folder(tmp_path, "masks", "a.png")
    Image.fromarray(labels_of(1)).save(tmp_path / "masks" / "a.png")
    data = open_dataset(tmp_path)
    shutil.rmtree(tmp_path / "images")
    (failure,) = data[0].failures
    assert "no such file" in failure.reason
