"""LabelledFolder: training data in several label formats, unusable images, and loader processes."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from torch.utils.data import DataLoader

from fastsam_core.evaluate import datasets
from fastsam_core.formats import CocoWriter, ImageLabels, LabelledObject, Segmentation, YoloWriter
from fastsam_core.train.labelled import LabelledFolder, LabelledImage
from label_examples import encoded
from small_model import bgr_image
from test_train_planes import blob, masks_of

HEIGHT, WIDTH = 40, 64


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Return whether two lists hold the same masks, in any order."""
    return sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in wanted)


def apart(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return masks that don't overlap."""
    taken = np.zeros((HEIGHT, WIDTH), bool)
    found = []
    for number in range(count):
        mask = blob(100 * seed + number, HEIGHT, WIDTH) & ~taken
        taken |= mask
        assert mask.sum() > 20
        found.append(mask)
    return found


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


# --- data formats: each function writes the same images and masks and returns the arguments that open them ---


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        # The first pixel identifies the image.
        image = bgr_image(HEIGHT, WIDTH).copy()
        image[0, 0] = number, 2 * number, 3 * number
        cv2.imwrite(str(folder / name), image)


def number_of(found: LabelledImage) -> int:
    """Return the number that `write_images` stored in the image."""
    return int(found.image[0, 0, 2])


Content = dict[str, list[np.ndarray]]


def as_label_maps(folder: Path, content: Content) -> dict[str, Any]:
    write_images(folder / "images", list(content))
    (folder / "masks").mkdir()
    for name, masks in content.items():
        labels = sum((7 * k + 3) * mask.astype(np.uint16) for k, mask in enumerate(masks))
        Image.fromarray(np.asarray(labels, np.uint16)).save(folder / "masks" / f"{Path(name).stem}.png")
    return {"data": folder}


def as_npz(folder: Path, content: Content) -> dict[str, Any]:
    write_images(folder / "images", list(content))
    (folder / "labels").mkdir()
    for name, masks in content.items():
        labels = sum((k + 1) * mask.astype(np.uint8) for k, mask in enumerate(masks))
        segments = json.dumps([{"label": k + 1} for k in range(len(masks))])
        np.savez(folder / "labels" / f"{Path(name).stem}.npz", labels=labels, segments=np.array(segments))
    return {"data": folder}


def labels_of(content: Content) -> list[ImageLabels]:
    return [
        ImageLabels(name, WIDTH, HEIGHT, [LabelledObject(0, Segmentation.from_rle(encoded(mask))) for mask in masks])
        for name, masks in content.items()
    ]


def as_coco(folder: Path, content: Content, *, polygons: bool = False) -> dict[str, Any]:
    write_images(folder / "photos", list(content))
    with CocoWriter(folder / "labels.json", polygons=polygons) as writer:
        for labels in labels_of(content):
            writer.write(labels)
    return {"data": folder / "labels.json", "images": folder / "photos"}


def as_coco_polygons(folder: Path, content: Content) -> dict[str, Any]:
    return as_coco(folder, content, polygons=True)


def as_coco_runs(folder: Path, content: Content) -> dict[str, Any]:
    """Write COCO with uncompressed RLE, a crowd, an object without a mask, and an image without objects."""
    arguments = as_coco(folder, content)
    written = json.loads((folder / "labels.json").read_text())
    for one in written["annotations"]:
        flat = coco.decode(one["segmentation"]).ravel("F")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
        one["segmentation"]["counts"] = np.diff([0, *edges, flat.size]).tolist()
    crowd = {**written["annotations"][0], "id": 999, "iscrowd": 1}
    written["annotations"] += [crowd, {**crowd, "id": 1000, "iscrowd": 0, "segmentation": None, "bbox": [1, 1, 5, 5]}]
    written["images"].insert(0, {**written["images"][0], "id": 77, "file_name": "bare.png"})
    (folder / "labels.json").write_text(json.dumps(written))
    return arguments


def as_yolo(folder: Path, content: Content) -> dict[str, Any]:
    write_images(folder / "images", [*content, "bare.png"])
    with YoloWriter(folder / "labels") as writer:
        for labels in labels_of(content):
            writer.write(labels)
    return {"data": folder}


def as_yolo_beside(folder: Path, content: Content) -> dict[str, Any]:
    write_images(folder, list(content))
    with YoloWriter(folder) as writer:
        for labels in labels_of(content):
            writer.write(labels)
    return {"data": folder}


Form = Callable[[Path, Content], dict[str, Any]]
OVERLAPPING: list[Form] = [as_coco, as_coco_runs, as_coco_polygons, as_yolo, as_yolo_beside]
FORMS: list[Form] = [as_label_maps, as_npz, *OVERLAPPING]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_images_and_masks(tmp_path: Path, form: Form) -> None:
    content = {"a.png": apart(3, 1), "b.png": apart(5, 2), "c.png": apart(1, 3)}
    data = LabelledFolder(**form(tmp_path, content), size=WIDTH, min_area=0)
    assert data.names == list(content) and len(data) == 3
    for number, masks in enumerate(content.values()):
        found = data[number]
        image = cv2.imread(str(next(tmp_path.rglob(data.names[number]))))
        np.testing.assert_array_equal(found.image, image[:, :, ::-1])
        assert found.image.flags.c_contiguous and found.planes.dtype == np.int16
        # The masks don't overlap, so one plane holds them all.
        assert found.planes.shape == (1, HEIGHT, WIDTH) and same(masks_of(found), masks)
    assert not data.skipped and not data.left_out


@pytest.mark.parametrize("form", OVERLAPPING)
def test_overlapping_masks_are_put_in_different_planes(tmp_path: Path, form: Form) -> None:
    whole, part, other = block(0, 0, 30, 30), block(5, 5, 10, 10), block(10, 25, 20, 20)
    found = LabelledFolder(**form(tmp_path, {"a.png": [part, other, whole]}), size=WIDTH)[0]
    assert found.planes.shape == (2, HEIGHT, WIDTH) and same(masks_of(found), [part, other, whole])
    np.testing.assert_array_equal(found.planes[0] == 1, whole)


@pytest.mark.parametrize(("size", "height", "width"), [(32, 20, 32), (50, 31, 50), (96, 60, 96)])
def test_formats_agree_at_other_sizes(tmp_path: Path, size: int, height: int, width: int) -> None:
    content = {"a.png": apart(4, 5)}
    found = []
    for form in FORMS:
        folder = tmp_path / form.__name__
        folder.mkdir()
        found.append(LabelledFolder(**form(folder, content), size=size)[0])
    for one in found:
        assert one.image.shape == (height, width, 3) and one.planes.shape == (1, height, width)
        np.testing.assert_array_equal(one.image, found[0].image)
        np.testing.assert_array_equal(one.planes, found[0].planes)
    method = cv2.INTER_AREA if size < WIDTH else cv2.INTER_LINEAR
    image = bgr_image(HEIGHT, WIDTH).copy()
    image[0, 0] = 0
    np.testing.assert_array_equal(found[0].image[:, :, ::-1], cv2.resize(image, (width, height), interpolation=method))
    # Coverage measured independently: each pixel is repeated 20 x 20 times, then OpenCV averages.
    fine = [np.kron(mask, np.ones((20, 20))) for mask in content["a.png"]]
    shares = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) for mask in fine]
    clear = [abs(share - 0.5) > 0.01 for share in shares]
    masks = masks_of(found[0])
    for share, sure in zip(shares, clear, strict=True):
        assert any(((share > 0.5) == mask)[sure].all() for mask in masks)


def test_masks_without_a_plane_are_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nested = [block(0, 0, 8 * k, 10 * k) for k in range(1, 6)]
    data = LabelledFolder(**as_coco(tmp_path, {"a.png": nested, "b.png": nested[:4], "c.png": nested[:3]}), size=WIDTH)
    for _ in range(2):
        for number, wanted in enumerate((nested[2:], nested[1:4], nested[:3])):
            assert same(masks_of(data[number]), wanted)
    assert data.left_out == 3
    (record,) = caplog.records
    assert "a.png: 2 of 5 masks are skipped" in record.getMessage() and record.levelno == logging.WARNING


# --- unusable images and masks ---


def test_masks_below_min_area_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, large = block(0, 0, 4, 6), block(10, 10, 20, 20)  # 24 and 400 of 2,560 pixels
    arguments = as_coco(tmp_path, {"a.png": [small], "b.png": [small, large]})
    assert len(masks_of(LabelledFolder(**arguments, size=WIDTH, min_area=24 / 2560)[1])) == 2
    assert len(masks_of(LabelledFolder(**arguments, size=WIDTH, min_area=25 / 2560)[1])) == 1
    data = LabelledFolder(**arguments, size=WIDTH, min_area=0.1)
    with caplog.at_level(logging.INFO, "fastsam_core"):
        assert number_of(data[0]) == 1 and number_of(data[0]) == 1
    assert data.skipped == ["a.png"]
    (record,) = caplog.records
    assert record.levelno == logging.INFO and "a.png is skipped: it has no mask of at least 0.1" in record.getMessage()
    with pytest.raises(ValueError, match=r"none of 2 images is usable: a.png: .*\(1 smaller\); b.png: .*\(2 smaller\)"):
        LabelledFolder(**arguments, size=WIDTH, min_area=0.9)[0]


def broken(folder: Path) -> tuple[LabelledFolder, Path]:
    """Write images 0 to 7 and their masks; 1, 2 and 7 are unusable for different reasons, and 4 is missing."""
    content = {f"{k}.png": [block(0, 0, 10, 10 + k)] for k in range(8)}
    as_label_maps(folder, content)
    images = folder / "images"
    (images / "1.png").write_bytes(b"hello")
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:200])
    (images / "4.png").unlink()
    Image.fromarray(np.ones((3, 3), np.uint8)).save(folder / "masks" / "7.png")
    return LabelledFolder(folder, size=WIDTH), images


def test_unusable_image_is_replaced_by_the_next_usable_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, _ = broken(tmp_path)
    assert data.names == [f"{k}.png" for k in (0, 1, 2, 3, 5, 6, 7)]
    (record,) = caplog.records
    assert "label files skipped: 1, the first: 4.png: no image of its name" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, "fastsam_core"):
        backwards = [number_of(data[index]) for index in reversed(range(7))]
        assert [number_of(found) for found in data] == [0, 3, 3, 3, 5, 6, 0] == backwards[::-1]
    told = sorted(record.getMessage() for record in caplog.records)
    assert [text.split(" is skipped: ")[0] for text in told] == data.skipped == ["1.png", "2.png", "7.png"]
    assert "not an image" in told[0] and "damaged" in told[1] and "3 x 3, but the image is 40 x 64" in told[2]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_images_deleted_during_use_raise_an_error(tmp_path: Path) -> None:
    data, images = broken(tmp_path)
    assert number_of(data[0]) == 0
    for path in images.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError) as caught:
        data[0]
    text = str(caught.value)
    assert "none of 7 images is usable" in text and text.count("no such file") == 5 and "and 2 more" in text


def test_unusable_objects_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = as_coco_runs(tmp_path, {"a.png": [block(0, 0, 9, 9)], "b.png": [block(0, 0, 9, 9)]})
    data = LabelledFolder(**arguments, size=WIDTH)
    for _ in range(2):
        assert len(masks_of(data[0])) == len(masks_of(data[1])) == 1
    (record,) = caplog.records
    assert "a.png: objects skipped: 1, the first: object 2: it has a box but no mask" in record.getMessage()


def test_images_are_decoded_only_on_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_yolo(tmp_path, {"a.png": apart(2), "b.png": apart(2)})
    (tmp_path / "labels" / "lonely.txt").write_text("")
    read: list[str] = []
    plain = datasets.read_image
    monkeypatch.setattr(datasets, "read_image", lambda path: (read.append(path.name), plain(path))[1])
    data = LabelledFolder(tmp_path, size=WIDTH)
    assert not read and data.names == ["a.png", "b.png"]
    assert data[1] and read == ["b.png"]


def test_invalid_arguments_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    arguments = as_npz(tmp_path / "set", {"a.png": apart(1)})
    for options, error, said in (
        ({"size": 31}, ValueError, "size must be at least 32, not 31"),
        ({"size": 64.0}, TypeError, "size must be an integer"),
        ({"size": 64, "min_area": 1}, ValueError, "min_area must be a fraction"),
        ({"size": 64, "min_area": -0.1}, ValueError, "min_area must be"),
    ):
        with pytest.raises(error, match=said):
            LabelledFolder(**arguments, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data must be a path, not list"):
        LabelledFolder([1], size=64)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        LabelledFolder(tmp_path / "missing", size=64)
    with pytest.raises(ValueError, match=r"accepted: a COCO .json"):
        LabelledFolder(tmp_path, size=64)
    (tmp_path / "set" / "labels" / "a.npz").unlink()
    (tmp_path / "set" / "labels" / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"none of its 1 images has a mask; objects need polygons"):
        LabelledFolder(tmp_path / "set", size=64)
    data = LabelledFolder(**as_coco(tmp_path, {"a.png": apart(1)}), size=64)
    for index in (-1, 1):
        with pytest.raises(IndexError):
            data[index]


# --- processes ---

GOOD = (0, 3, 5, 6)  # of the images that `broken` makes
NO_USABLE_IMAGE = (
    r"none of 7 images is usable: 0.png: no such file.*; 1.png: .*not an image.*; 2.png: .*damaged.*; and 2 more"
)


@pytest.mark.parametrize(("workers", "how"), [(0, None), (2, None), pytest.param(2, "spawn", marks=pytest.mark.slow)])
def test_data_loader_gives_the_same_items_and_skips_the_same_images(
    tmp_path: Path, workers: int, how: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    data, images = broken(tmp_path)
    wanted = [pickle.dumps(found) for found in LabelledFolder(tmp_path, size=WIDTH)]
    caplog.clear()
    loader: DataLoader[LabelledImage] = DataLoader(
        data, batch_size=2, num_workers=workers, collate_fn=list, multiprocessing_context=how
    )
    for _ in range(2):
        found = [one for batch in loader for one in batch]
        assert [pickle.dumps(one) for one in found] == wanted
    # The same, whichever process found the image unusable. Only the main process's log is captured.
    assert data.skipped == ["1.png", "2.png", "7.png"] and len(caplog.records) == (0 if workers else 3)
    assert [number_of(one) for one in data] == [0, 3, 3, 3, 5, 6, 0]
    for number in GOOD:
        (images / f"{number}.png").unlink()
    caplog.clear()
    with pytest.raises(ValueError, match=NO_USABLE_IMAGE):
        data[0]
    # Each image is logged once, and not again when the error lists the reasons.
    assert len(caplog.records) == len(GOOD)


def test_data_loader_without_usable_images_says_why(tmp_path: Path) -> None:
    data, images = broken(tmp_path)
    for number in GOOD:
        (images / f"{number}.png").unlink()
    loader: DataLoader[LabelledImage] = DataLoader(data, num_workers=1, collate_fn=list)
    with pytest.raises(ValueError, match=NO_USABLE_IMAGE) as caught:
        next(iter(loader))
    # Frames in the traceback keep the loader alive; collecting it later would wait five seconds for its process.
    traceback.clear_frames(caught.tb)


def test_pickled_data_set_gives_the_same_items(tmp_path: Path) -> None:
    for form in (as_coco, as_yolo, as_npz):
        folder = tmp_path / form.__name__
        folder.mkdir()
        data = LabelledFolder(**form(folder, {"a.png": apart(2), "b.png": apart(3)}), size=WIDTH)
        again = pickle.loads(pickle.dumps(data))
        assert again.names == data.names and pickle.dumps(again[1]) == pickle.dumps(data[1])
