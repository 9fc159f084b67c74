"""Tests what `auto_annotate` writes: each label format, coco.json, class names and the contact sheet."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from annotate_kills import detector, make_images, tree
from fastsam_core import SAM, auto_annotate, rle
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.annotate.dataset_files import write_coco
from fastsam_core.annotate.shards import stable_hash
from fastsam_core.detect import Detections
from fastsam_core.detect.open_vocabulary import OpenVocabularyDetector
from fastsam_core.formats import class_names, read_labels
from image_examples import write_video

ALL = ("yolo", "coco", "sa1b", "labelme", "png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", 6)
    return tmp_path / "images"


def masks_of(labels: Any) -> dict[str, list[tuple[int, str]]]:
    """Return the class and RLE of every object, by image."""
    return {
        entry.file_name: [(found.class_id, found.segmentation.rle["counts"]) for found in entry.objects]
        for entry in labels
    }


def test_all_formats_hold_the_same_masks(sam: SAM, images: Path) -> None:
    target = auto_annotate(images, detector, sam, formats=ALL)
    coco = masks_of(read_labels(target / "coco.json", "coco"))
    assert sorted(coco) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    assert sum(map(len, coco.values())) > 6 and {found[0] for entry in coco.values() for found in entry} == {0, 1}
    # Empty masks have no outline, so text files leave them out.
    drawn = {
        name: [entry for entry in found if rle.area(_rle(images / name, entry[1]))] for name, found in coco.items()
    }
    assert masks_of(read_labels(target, "yolo", images=images)) == drawn
    for key, found in coco.items():
        stem = os.path.splitext(key)[0]
        sa1b = json.loads((target / "sa1b" / f"{stem}.json").read_text())
        assert [entry["segmentation"]["counts"] for entry in sa1b["annotations"]] == [counts for _, counts in found]
        assert sa1b["image"]["image_id"] == stable_hash(key) >> 11, "of 53 bits, the same in every run"
        labelme = json.loads((target / "labelme" / f"{stem}.json").read_text())
        seen = (target / "labelme" / f"{stem}.json").parent / labelme["imagePath"]
        assert os.path.samefile(seen, images / key)
        assert {shape["label"] for shape in labelme["shapes"]} == {["even", "odd"][entry[0]] for entry in drawn[key]}
        numbers = cv2.imread(str(target / "png" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert numbers.shape == cv2.imread(str(images / key)).shape[:2] and numbers.max() <= len(found)
        union = np.zeros(numbers.shape, bool)
        for _, counts in found:
            union |= rle.decode(_rle(images / key, counts)).view(bool)
        assert ((numbers > 0) == union).all()


def _rle(image: Path, counts: str) -> dict[str, Any]:
    height, width = cv2.imread(str(image)).shape[:2]
    return {"size": [height, width], "counts": counts}


def test_coco_file_is_valid_for_pycocotools(sam: SAM, images: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools isn't installed")
    from pycocotools.cocoeval import COCOeval

    target = auto_annotate(images, detector, sam, formats="coco")
    truth = pycocotools.COCO(str(target / "coco.json"))
    truth.info()  # needed by `loadRes` of some versions
    assert truth.getImgIds() == list(range(1, 7))
    assert [category["name"] for category in truth.loadCats(truth.getCatIds())] == ["even", "odd"]
    assert [entry["file_name"] for entry in truth.loadImgs(truth.getImgIds())] == sorted(
        path.relative_to(images).as_posix() for path in images.rglob("*.png")
    )
    found = truth.loadRes(json.loads((target / "coco.json").read_text())["annotations"])
    evaluation = COCOeval(truth, found, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco_category_ids_and_damaged_parts(tmp_path: Path) -> None:
    part = {"image": {"file_name": "a.jpg"}, "annotations": [{"category_id": 4}, {"category_id": 2}]}
    for name in ("a", "b"):
        (tmp_path / name).write_text(json.dumps(part))
    write_coco(tmp_path / "coco.json", [tmp_path / "a", tmp_path / "b"], {3: "cup", 1: "dish"})
    made = json.loads((tmp_path / "coco.json").read_text())
    assert [(entry["id"], entry["name"]) for entry in made["categories"]] == [
        (1, "0"),
        (2, "dish"),
        (3, "2"),
        (4, "cup"),
    ]
    assert [entry["id"] for entry in made["images"]] == [1, 2]
    assert [(entry["id"], entry["image_id"]) for entry in made["annotations"]] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    write_coco(tmp_path / "none.json", [], {})
    assert json.loads((tmp_path / "none.json").read_text())["images"] == []
    (tmp_path / "b").write_text("{")
    with pytest.raises(ValueError, match=r"b is damaged.*remove it and run again"):
        write_coco(tmp_path / "coco.json", [tmp_path / "a", tmp_path / "b"], {})
    (tmp_path / "b").unlink()
    with pytest.raises(ValueError, match=r"b is missing; run the shard of its image again"):
        write_coco(tmp_path / "coco.json", [tmp_path / "a", tmp_path / "b"], {})


def test_images_without_objects_get_empty_labels(sam: SAM, images: Path) -> None:
    target = auto_annotate(images, lambda image: ([], [], [], None), sam, formats=ALL)
    assert [path.read_bytes() for path in target.rglob("*.txt")] == [b""] * 6
    made = json.loads((target / "coco.json").read_text())
    assert len(made["images"]) == 6 and made["annotations"] == [] and not (target / "data.yaml").exists()
    assert [cv2.imread(str(path), -1).any() for path in (target / "png").rglob("*.png")] == [False] * 6


def test_min_area_leaves_out_small_masks(sam: SAM, images: Path) -> None:
    whole = auto_annotate(images, detector, sam, formats="coco")
    areas = [entry["area"] for entry in json.loads((whole / "coco.json").read_text())["annotations"]]
    threshold = sorted(areas)[len(areas) // 2]
    target = auto_annotate(images, detector, sam, output_dir=whole.parent / "large", formats="coco", min_area=threshold)
    kept = [entry["area"] for entry in json.loads((target / "coco.json").read_text())["annotations"]]
    assert kept == [area for area in areas if area >= threshold] and 0 < len(kept) < len(areas)


def test_yolo_class_names_are_written(sam: SAM, images: Path) -> None:
    target = auto_annotate(images, detector, sam)
    assert dict(read_labels(target, "yolo", images=images).names) == {0: "even", 1: "odd"}


def test_all_classes_of_the_detector_are_named(sam: SAM, images: Path) -> None:
    def detect(image: Any) -> Any:
        return [[0, 0, 9, 9]], [1], [3], {0: "a", 1: "b", 5: "f", -1: "none", 10**6: "too many"}

    def check_names() -> Path:
        target = auto_annotate(images, detect, sam, formats=("yolo", "coco"))
        categories = json.loads((target / "coco.json").read_text())["categories"]
        # Ultralytics takes names without gaps only; a class without a name is called by its number.
        names = ["a", "b", "2", "3", "4", "f"]
        assert [category["name"] for category in categories] == names
        assert class_names.read(target / "data.yaml") == dict(enumerate(names))
        return target

    lines = (check_names() / "manifest.jsonl").read_text().splitlines()
    (with_names,) = (line for line in map(json.loads, lines) if "names" in line)
    (images / with_names["key"]).unlink()
    check_names()


def test_contact_sheet_shows_preview_images(sam: SAM, images: Path, tmp_path: Path) -> None:
    target = auto_annotate(images, detector, sam, preview=4)
    sheet = cv2.imread(str(target / "preview.jpg"))
    assert len(list((target / ".preview").iterdir())) == 4
    assert sheet.shape[0] > 2 * 256 and sheet.shape[1] > 2 * 256 and sheet.std() > 20
    before = (target / "preview.jpg").read_bytes()
    # With another number of images, missing thumbnails are made and labels stay.
    labels = {name: value for name, value in tree(target).items() if name.endswith(".txt")}
    auto_annotate(images, detector, sam, preview=6)
    assert (target / "preview.jpg").read_bytes() != before and len(list((target / ".preview").iterdir())) == 6
    assert {name: value for name, value in tree(target).items() if name.endswith(".txt")} == labels
    none = auto_annotate(images, detector, sam, output_dir=tmp_path / "none", preview=0)
    assert not (none / "preview.jpg").exists() and not (none / ".preview").exists()


def test_written_files_are_not_read_as_images(sam: SAM, images: Path) -> None:
    for _ in range(2):
        assert auto_annotate(images, detector, sam, output_dir=images) == images
        assert sorted(path.name for path in images.rglob("*.txt")) == [f"{index:05}.txt" for index in range(6)]
    with pytest.raises(ValueError, match="the folder of the images"):
        auto_annotate(images, detector, sam, output_dir=images, formats="png")
    inside = auto_annotate(images, detector, sam, output_dir=images / "labels", formats=["yolo", "png"])
    before = tree(inside)
    auto_annotate(images, detector, sam, output_dir=inside, formats=["yolo", "png"])
    assert tree(inside) == before
    # By now both folders of labels hold a contact sheet, and one label maps. Neither counts in a run into a third one.
    other = auto_annotate(images, detector, sam)
    assert sorted(path.stem for path in other.rglob("*.txt")) == [f"{index:05}" for index in range(6)]


def test_image_named_preview_jpg_is_not_overwritten(sam: SAM, images: Path) -> None:
    taken = images / "preview.jpg"
    taken.write_bytes(next(images.rglob("*.png")).read_bytes())
    before = taken.read_bytes()
    with pytest.raises(ValueError, match=r"preview\.jpg is an image that the contact sheet would overwrite"):
        auto_annotate(images, detector, sam, output_dir=images)
    auto_annotate(images, detector, sam, output_dir=images, preview=0)
    assert taken.read_bytes() == before and (images / "preview.txt").exists()
    # It is still an image when a run resumes.
    with pytest.raises(ValueError, match=r"preview\.jpg is an image that the contact sheet would overwrite"):
        auto_annotate(images, detector, sam, output_dir=images)
    (images / "preview.txt").unlink()
    auto_annotate(images, detector, sam, output_dir=images, preview=0)
    assert taken.read_bytes() == before and (images / "preview.txt").exists()


def test_listed_image_in_the_place_of_the_contact_sheet_is_not_overwritten(sam: SAM, images: Path) -> None:
    one, other = sorted(images.rglob("*.png"))[:2]
    taken = images / "labels" / "preview.jpg"
    taken.parent.mkdir()
    taken.write_bytes(one.read_bytes())
    before = tree(images)
    with pytest.raises(ValueError, match=r"preview\.jpg is an image that the contact sheet would overwrite"):
        auto_annotate([taken, other], detector, sam, output_dir=taken.parent)
    assert tree(images) == before


@pytest.mark.parametrize("data", [["png"], ["png/deep"], ["png/deep/a.png"], ["png/deep/a.png", "../b.png"]])
def test_label_maps_do_not_go_among_images(sam: SAM, images: Path, tmp_path: Path, data: list[str]) -> None:
    """The label maps' own folder, `png` in that of the labels, may hold the images, or lie above or beside some."""
    (tmp_path / "set" / "png" / "deep").mkdir(parents=True)
    for name in ("set/png/deep/a.png", "b.png"):
        (tmp_path / name).write_bytes(next(images.rglob("*.png")).read_bytes())
    before = tree(tmp_path)
    paths = [tmp_path / "set" / name for name in data]
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"label maps can't go into .*set.png, the folder of the images"):
            auto_annotate(
                paths[0] if len(paths) == 1 else paths, detector, sam,
                output_dir=tmp_path / "set", formats="png", resume=resume,
            )  # fmt: skip
    assert tree(tmp_path) == before


def test_video_frames_are_labelled_once(sam: SAM, images: Path) -> None:
    write_video(images / "a" / "clip.avi", [np.full((48, 80, 3), 60 * level, np.uint8) for level in range(3)])
    (images / "b" / "clip.mp4").write_bytes(b"no video")
    calls = 0

    def counting(image: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        return [[4, 4, 40, 40]], [0.9], [0], ["thing"]

    for _ in range(2):
        target = auto_annotate(images, counting, sam, formats=("yolo", "coco"), batch=2)
        assert calls == 9
    assert sorted(path.name for path in (target / "a").glob("clip*")) == ["clip_0.txt", "clip_1.txt", "clip_2.txt"]
    made = json.loads((target / "coco.json").read_text())
    assert [entry["file_name"] for entry in made["images"]][2:5] == ["a/clip_0.jpg", "a/clip_1.jpg", "a/clip_2.jpg"]
    assert len(made["images"]) == 9


def test_arrays_are_named_by_position(sam: SAM, images: Path, tmp_path: Path) -> None:
    arrays = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    with pytest.raises(ValueError, match="output_dir is needed"):
        auto_annotate(arrays, detector, sam)
    target = auto_annotate(arrays, detector, sam, output_dir=tmp_path / "out", formats=("yolo", "coco"))
    assert sorted(path.name for path in target.glob("*.txt")) == [f"image{index}.txt" for index in range(6)]
    assert len(json.loads((target / "coco.json").read_text())["images"]) == 6


def test_batch_is_encoded_together_with_same_results(sam: SAM, images: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    plain = sam.model.encode_image

    def encode(pixels: Any, *dtype: Any) -> Any:
        sizes.append(len(pixels))
        return plain(pixels, *dtype)

    single = auto_annotate(images, detector, sam, formats="coco", preview=0)
    sam.model.encode_image = encode  # type: ignore[method-assign]
    try:
        four = auto_annotate(images, detector, sam, output_dir=tmp_path / "four", formats="coco", batch=4, preview=0)
    finally:
        del sam.model.encode_image
    assert sizes == [4, 2]
    first, second = (json.loads((target / "coco.json").read_text())["annotations"] for target in (single, four))
    assert [a["category_id"] for a in first] == [a["category_id"] for a in second]
    for a, b in zip(first, second, strict=True):
        assert rle.iou([a["segmentation"]], [b["segmentation"]], [False])[0, 0] > 0.99


def test_many_boxes_are_decoded_in_parts(sam: SAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 boxes in one image; at most 32 are decoded at a time."""
    from fastsam_core.models.sam_model import SamModel

    make_images(tmp_path / "images", 1)
    corners = np.random.default_rng(0).integers(0, 30, (2000, 2))
    boxes = np.concatenate([corners, corners + 10], 1)
    most: list[int] = []
    plain = SamModel.decode_prompts

    def decode(self: SamModel, *arguments: Any, **options: Any) -> Any:
        most.append(len(options["boxes"]))
        return plain(self, *arguments, **options)

    monkeypatch.setattr(SamModel, "decode_prompts", decode)
    crowd = boxes, np.ones(2000), np.arange(2000) % 7, None
    target = auto_annotate(tmp_path / "images", lambda image: crowd, sam, formats="coco", max_det=2000, preview=0)
    assert sum(most) == 2000 and max(most) <= 32
    found = json.loads((target / "coco.json").read_text())["annotations"]
    assert [entry["category_id"] - 1 for entry in found] == [index % 7 for index in range(2000)]


class FindsEveryText(OpenVocabularyDetector):
    """Stand-in for a text detector of transformers that finds each text once, and lists the requests in `asked`."""

    kind, conf, iou, model = "owlv2", 0.1, 0.5, torch.nn.Linear(1, 1)

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def find(self, image: np.ndarray, texts: Any) -> Detections:
        self.asked.append(list(texts))
        height, width = image.shape[:2]
        count = len(texts)
        boxes = np.array([[0, 0, width / 2, height / 2 + index] for index in range(count)], np.float32)
        return Detections(boxes, np.full(count, 0.9, np.float32), np.arange(count)[::-1], dict(enumerate(texts)))


def test_texts_become_classes(sam: SAM, images: Path, tmp_path: Path) -> None:
    found = FindsEveryText()
    target = auto_annotate(images, found, sam, texts=["a dog", "a red car"])
    assert found.asked == [["a dog", "a red car"]] * 6
    for path in target.rglob("*.txt"):
        assert [line.split()[0] for line in path.read_text().splitlines()] == ["1", "0"]
    assert dict(read_labels(target, "yolo", images=images).names) == {0: "a dog", 1: "a red car"}
    with pytest.raises(ValueError, match=r'texts was \["a dog", "a red car"\] and is \["a cat"\]'):
        auto_annotate(images, found, sam, texts=["a cat"])
    single = auto_annotate(images, found, sam, output_dir=tmp_path / "one", texts=["a dog", "a red car"], classes=1)
    assert {line.split()[0] for path in single.rglob("*.txt") for line in path.read_text().splitlines()} == {"1"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"formats": ["yolo", "voc"]}, ValueError, "'voc'; accepted: yolo, coco, sa1b, labelme, png"),
        ({"formats": []}, ValueError, "accepted: yolo"),
        ({"formats": 3}, TypeError, "must be a list"),
        ({"conf": 2}, ValueError, "conf must be"),
        ({"iou": "x"}, TypeError, "iou must be"),
        ({"max_det": 0}, ValueError, "max_det must be at least 1"),
        ({"classes": [1, -2]}, TypeError, "classes must be a class id"),
        ({"classes": ["cup"]}, TypeError, "classes must be a class id"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"workers": 1.5}, TypeError, "workers must be an integer"),
        ({"min_area": -1}, ValueError, "min_area must be"),
        ({"texts": []}, ValueError, "at least one is needed"),
        ({"texts": 3}, TypeError, "texts must be a text or a list"),
        ({"texts": ["a dog", " "]}, ValueError, "texts must not be empty"),
        ({"det_model": 3}, TypeError, "det_model must be"),
        ({"det_model": detector, "texts": ["dog"]}, ValueError, "texts need an open-vocabulary detector"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        AnnotateConfig(**options)


def test_options_are_normalised() -> None:
    config = AnnotateConfig(formats="png, yolo", classes=3, texts="a dog", device=None)
    assert config.formats == ("yolo", "png") and config.classes == [3] and config.texts == ["a dog"]
    assert config.device == ""
