"""Tests of writing label files in every format and reading them back, also with pycocotools."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

import scene
from fastsam_core.formats import (
    ImageLabels,
    LabelledObject,
    Segmentation,
    convert_labels,
    open_writer,
    read_labels,
)
from label_examples import encoded, filled, image_labels, pixels

quick = settings(max_examples=60, deadline=None)


@contextlib.contextmanager
def written(kind: str, labels: list[ImageLabels], **options: Any) -> Iterator[Path]:
    """Yield a temporary path with the labels in format `kind`, beside a folder `images` with images of their sizes."""
    with tempfile.TemporaryDirectory() as folder:
        for record in labels:
            image = Path(folder, "images", record.file_name)
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (record.width, record.height)).save(image)
        target = Path(folder, "labels.json" if kind == "coco" else "labels")
        with open_writer(target, kind, **options) as writer:
            for record in labels:
                writer.write(record)
        yield target


def round_trip(kind: str, labels: list[ImageLabels], **options: Any) -> list[ImageLabels]:
    with written(kind, labels, **options) as target:
        return list(read_labels(target, kind))


def same_masks(before: list[LabelledObject], after: list[LabelledObject]) -> None:
    assert [found.class_id for found in before] == [found.class_id for found in after]
    for first, second in zip(before, after, strict=True):
        assert first.segmentation is not None and second.segmentation is not None
        assert first.segmentation.rle == second.segmentation.rle


# ---------------------------------------------------------------------------------------------------- exact round trips


@quick
@given(labels=image_labels(), polygons=st.booleans())
def test_coco_round_trip(labels: ImageLabels, polygons: bool) -> None:
    """Both RLE and polygons along pixel edges are exact."""
    (read,) = round_trip("coco", [labels], polygons=polygons)
    assert (read.file_name, read.width, read.height) == (labels.file_name, labels.width, labels.height)
    same_masks(labels.objects, read.objects)
    assert [found.score for found in labels.objects] == [found.score for found in read.objects]


@pytest.mark.parametrize(("score", "expected"), [(1.02, 1), (-0.1, 0), (0.25, 0.25)])
def test_yolo_scores_are_written_within_their_range(score: float, expected: float) -> None:
    mask = Segmentation.from_polygons([[[0, 0], [5, 0], [5, 4], [0, 4]]], (4, 5))
    objects = [LabelledObject(0, mask, score=score), LabelledObject(0, box=(1, 1, 3, 3), score=score)]
    (read,) = round_trip("yolo", [ImageLabels("a.png", 5, 4, objects)], scores=True)
    assert [found.score for found in read.objects] == [expected, expected]


@quick
@given(labels=image_labels())
def test_yolo_round_trip(labels: ImageLabels) -> None:
    """Masks, including those with several parts and holes, are exactly one polygon each; empty masks are left out."""
    (read,) = round_trip("yolo", [labels], scores=True)
    kept = [found for found in labels.objects if not found.is_empty]
    same_masks(kept, read.objects)
    for one, other in zip(kept, read.objects, strict=True):
        assert (one.score is None) == (other.score is None)
        assert one.score is None or other.score == pytest.approx(one.score, rel=1e-5)


@quick
@given(labels=image_labels())
def test_sa1b_round_trip(labels: ImageLabels) -> None:
    (read,) = round_trip("sa1b", [labels])
    assert read.file_name == labels.file_name
    same_masks(labels.objects, read.objects)
    assert [found.score for found in labels.objects] == [found.predicted_iou for found in read.objects]


def test_sa1b_keeps_stability_points_and_crop_box(tmp_path: Path) -> None:
    mask = Segmentation.from_rle(encoded(np.eye(6, dtype=bool)))
    by_sam = LabelledObject(0, mask, stability_score=0.75, point_coords=[[1.5, 2]], crop_box=[1, 0, 3, 6])
    with open_writer(tmp_path, "sa1b") as writer:
        for name, given_id in (("a", None), ("b", 7), ("c", None)):
            writer.write(ImageLabels(name, 6, 6, [by_sam, LabelledObject(0, mask)], image_id=given_id))
    found = list(read_labels(tmp_path, "sa1b"))
    assert [one.image_id for one in found] == [1, 7, 8]
    one, other = found[0].objects
    assert (one.stability_score, one.point_coords, one.crop_box) == (0.75, [[1.5, 2]], [1, 0, 3, 6])
    assert other.crop_box == [0, 0, 6, 6]


@quick
@given(labels=image_labels())
def test_labelme_polygons_equal_the_masks(labels: ImageLabels) -> None:
    """The union of a group's shapes is the mask; each part is one polygon that includes its holes."""
    with written("labelme", [labels]) as target:
        document = json.loads((target / "a" / "b.json").read_text())
    kept = [i for i, found in enumerate(labels.objects) if not found.is_empty]
    parts: list[list[Any]] = []
    groups: list[int | None] = []
    for shape in document["shapes"]:
        assert shape["shape_type"] == "polygon"
        if shape["group_id"] is not None and shape["group_id"] == (groups or [None])[-1]:
            parts[-1].append(shape["points"])
        else:
            parts.append([shape["points"]])
            groups.append(shape["group_id"])
    assert len(parts) == len(kept)
    for place_, polygons, group in zip(kept, parts, groups, strict=True):
        drawn = filled(polygons, labels.height, labels.width)
        np.testing.assert_array_equal(drawn, pixels(labels, place_))
        assert group == (place_ + 1 if len(polygons) > 1 else None)
        components, _ = cv2.connectedComponents(pixels(labels, place_).astype(np.uint8), connectivity=8)
        assert len(polygons) == components - 1


@quick
@given(labels=image_labels(), order=st.sampled_from(["area", "score", "index"]))
def test_label_map_shows_the_top_object_of_each_pixel(labels: ImageLabels, order: str) -> None:
    with written("labelmap", [labels], order=order) as target:
        drawn = cv2.imread(str(target / "a" / "b.png"), cv2.IMREAD_UNCHANGED)
    assert drawn.shape == labels.size and drawn.dtype == np.uint8
    expected = np.zeros(labels.size, int)
    masks = [pixels(labels, i) for i in range(len(labels.objects))]
    for y in range(labels.height):
        for x in range(labels.width):
            here = [i for i, mask in enumerate(masks) if mask[y, x]]
            if here:
                best = max(here, key=lambda i: (importance(labels.objects[i], i, order), -int(masks[i].sum()), i))
                expected[y, x] = best + 1
    np.testing.assert_array_equal(drawn, expected)


def importance(obj: LabelledObject, index: int, order: str) -> float:
    if order == "score":
        return -1.0 if obj.score is None else obj.score
    return float(index) if order == "index" else 0.0


chains = st.lists(st.sampled_from(["yolo", "coco", "coco polygons", "sa1b", "labelme"]), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(labels=image_labels(), chain=chains)
def test_masks_survive_any_chain_of_conversions(labels: ImageLabels, chain: list[str]) -> None:
    labels.objects = [found for found in labels.objects if not found.is_empty]
    with written(chain[0].split()[0], [labels]) as target:
        place = target.parent
        for step, (kind, following) in enumerate(pairwise(chain)):
            to = following.split()[0]
            options = {"polygons": True} if following.endswith("polygons") else {}
            after = Path(place, f"{step}.json" if to == "coco" else str(step))
            images = Path(place, "images")
            done = convert_labels(target, after, from_=kind.split()[0], to=to, images=images, progress=False, **options)
            assert (done.images, done.objects, done.left_out) == (1, len(labels.objects), 0)
            target = after
        (read,) = read_labels(target, to, **({"images": images} if to == "yolo" else {}))
    assert read.file_name == labels.file_name
    same_masks(labels.objects, read.objects)


# ---------------------------------------------------------------------------------------------------- COCO's own reader


def loaded(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_and_evaluates_the_file(tmp_path: Path, polygons: bool) -> None:
    from pycocotools.cocoeval import COCOeval

    labels = ImageLabels.from_results(scene.results(names={0: "person", 1: "car", 2: "dog", 3: "cat"}))
    labels.objects = labels.objects[:3]
    with open_writer(tmp_path / "all.json", "coco", polygons=polygons) as writer:
        for name in ("a.jpg", "sub/b.jpg"):
            writer.write(ImageLabels(name, labels.width, labels.height, labels.objects, labels.names))
        writer.write(ImageLabels("empty.jpg", 10, 20))
    read = loaded(tmp_path / "all.json")
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == ["a.jpg", "sub/b.jpg", "empty.jpg"]
    assert {one["id"]: one["name"] for one in read.loadCats(read.getCatIds())} == {
        1: "person",
        2: "car",
        3: "dog",
        4: "cat",
    }
    assert sorted(read.anns) == [1, 2, 3, 4, 5, 6]
    for annotation in read.loadAnns(read.getAnnIds(imgIds=[2], iscrowd=False)):
        np.testing.assert_array_equal(read.annToMask(annotation), scene.masks()[annotation["category_id"] - 1])
        assert isinstance(annotation["segmentation"], list) == polygons
    with contextlib.redirect_stdout(io.StringIO()):
        found = read.loadRes(
            [
                {**{key: one[key] for key in ("image_id", "category_id", "score")}, "segmentation": read.annToRLE(one)}
                for one in read.anns.values()
            ]
        )
        evaluation = COCOeval(read, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_streaming_coco_writer_equals_coco_dataset(tmp_path: Path) -> None:
    """Only the order of keys may differ."""
    from fastsam_core.formats import coco

    for names in ({0: "a", 1: "b", 2: "c", 3: "d"}, None):
        results = [scene.results(names=names, path=name) for name in ("1.jpg", "2.jpg")]
        with open_writer(tmp_path / "all.json", "coco") as writer:
            for result in results:
                writer.write(ImageLabels.from_results(result))
        assert json.loads((tmp_path / "all.json").read_text()) == coco.dataset(results)


def test_coco_file_is_complete_or_absent(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    with pytest.raises(Stop), open_writer(tmp_path / "all.json", "coco") as writer:
        writer.write(ImageLabels("a.jpg", 4, 4))
        assert not (tmp_path / "all.json").exists()
        raise Stop
    assert list(tmp_path.iterdir()) == []


def test_classes_without_names_keep_their_numbers(tmp_path: Path) -> None:
    mask = Segmentation.from_rle(encoded(np.ones((4, 4), bool)))
    labels = ImageLabels("a.jpg", 4, 4, [LabelledObject(5, mask), LabelledObject(2, mask)], {2: "cat"})
    with open_writer(tmp_path / "all.json", "coco") as writer:
        writer.write(labels)
    found = read_labels(tmp_path / "all.json", "coco")
    assert [one.class_id for one in next(iter(found)).objects] == [5, 2]
    assert found.names == {0: "0", 1: "1", 2: "cat", 3: "3", 4: "4", 5: "5"}


def test_missing_image_ids_are_assigned_and_duplicates_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "all.json", "coco") as writer:
        for name, given_id in (("a", 7), ("b", None), ("c", 3), ("d", None)):
            writer.write(ImageLabels(name, 4, 4, image_id=given_id))
        with pytest.raises(ValueError, match=r"two images have the id 3; the second one is e"):
            writer.write(ImageLabels("e", 4, 4, image_id=3))
        for taken in (8, 9, 7):
            with pytest.raises(ValueError, match=f"two images have the id {taken}; the second one is f"):
                writer.write(ImageLabels("f", 4, 4, image_id=taken))
        writer.write(ImageLabels("g", 4, 4, image_id=10))
        writer.write(ImageLabels("h", 4, 4))
    assert [one.image_id for one in read_labels(tmp_path / "all.json", "coco")] == [7, 8, 3, 9, 10, 11]


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    boxes = [(-5, -5, 3, 3), (-5, -5, 0, 3), (6, 0, 9, 9), (2, 2, 2, 4), (3, 7, 5, 8)]
    labels = ImageLabels("a.png", 6, 6, [LabelledObject(0, box=box) for box in boxes])
    with open_writer(tmp_path, "yolo") as writer:
        assert writer.write(labels) == 2
    assert (tmp_path / "a.txt").read_text() == "0 0.25 0.25 0.5 0.5\n0 0.333333 0.5 0 0.333333\n"


def test_crowds_and_boxes_in_each_format(tmp_path: Path) -> None:
    mask = Segmentation.from_rle(encoded(np.eye(6, dtype=bool)))
    objects = [LabelledObject(0, mask, iscrowd=True), LabelledObject(1, box=(1, 2, 4, 5.5), score=0.5)]
    labels = ImageLabels("a.png", 6, 6, objects, {0: "people", 1: "box"})
    counts = {}
    for kind in ("coco", "yolo", "sa1b", "labelme", "labelmap"):
        with open_writer(tmp_path / ("all.json" if kind == "coco" else kind), kind) as writer:
            counts[kind] = writer.write(labels)
    assert counts == {"coco": 2, "yolo": 1, "sa1b": 1, "labelme": 1, "labelmap": 0}
    (read,) = read_labels(tmp_path / "all.json", "coco")
    crowd, box = read.objects
    assert crowd.iscrowd and crowd.segmentation is not None and crowd.segmentation.rle == mask.rle
    assert box.segmentation is None and box.box == (1, 2, 4, 5.5)
    assert (tmp_path / "yolo" / "a.txt").read_text() == "1 0.416667 0.625 0.5 0.583333\n"
    Image.new("L", (6, 6)).save(tmp_path / "yolo" / "a.png")
    (read,) = read_labels(tmp_path / "yolo", "yolo")
    assert read.objects[0].box == pytest.approx((1, 2, 4, 5.5), abs=1e-4) and read.names == {0: "people", 1: "box"}
    (shape,) = json.loads((tmp_path / "labelme" / "a.json").read_text())["shapes"]
    assert shape["shape_type"] == "rectangle" and shape["points"] == [[1, 2], [4, 5.5]] and shape["score"] == 0.5


# ------------------------------------------------------------------------------------------------ polygons of the files


def test_polygons_keep_their_points_between_coco_and_yolo(tmp_path: Path) -> None:
    """Polygons aren't traced again from the mask: an outline of few vertices keeps them."""
    triangle, square = [10.25, 10, 60.5, 20, 30, 70.75], [80, 80, 95, 80, 95, 95, 80, 95]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": [triangle, square]}],
        "categories": [{"id": 3, "name": "sign"}],
    }
    (tmp_path / "in.json").write_text(json.dumps(document))
    convert_labels(tmp_path / "in.json", tmp_path / "yolo", from_="coco", to="yolo")
    Image.new("L", (100, 100)).save(tmp_path / "yolo" / "a.png")
    (read,) = read_labels(tmp_path / "yolo", "yolo")
    (ring,) = read.objects[0].segmentation.to_polygons()  # type: ignore[union-attr]
    assert len(ring) == 3 + 4 + 2  # both ends of the bridge are visited twice
    np.testing.assert_array_equal(pixels(read, 0), filled([triangle, square], 100, 100))
    convert_labels(tmp_path / "yolo", tmp_path / "out.json", from_="yolo", to="coco", polygons=True)
    (annotation,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert "score" not in annotation
    points = np.array(annotation["segmentation"][0]).reshape(-1, 2).tolist()
    assert [10.25, 10] in points and [30, 70.75] in points


@quick
@given(data=st.data())
def test_overlapping_and_clipped_polygons_keep_their_mask_in_yolo(data: st.DataObject) -> None:
    """COCO takes the union of polygons, YOLO has one even-odd polygon: points may change, but the mask doesn't."""
    corner = st.integers(-4, 24)
    boxes = data.draw(
        st.lists(st.tuples(corner, corner, st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3)
    )
    corners = data.draw(st.integers(3, 4))  # slanted edges can't be clipped by moving their points
    polygons = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)][:corners] for x, y, w, h in boxes]
    mask = Segmentation.from_polygons(polygons, (20, 20))
    labels = ImageLabels("a/b.png", 20, 20, [LabelledObject(0, mask)])
    expected = filled(polygons, 20, 20)
    np.testing.assert_array_equal(pixels(labels, 0), expected)
    (read,) = round_trip("yolo", [labels])
    if expected.any():
        np.testing.assert_array_equal(pixels(read, 0), expected)
    else:
        assert read.objects == []


def test_yolo_lines_of_large_images_are_exact(tmp_path: Path) -> None:
    side = 200_000
    corners = np.array([[1, 3], [199_997, 3], [199_997, 199_999], [77_777, 199_999], [77_777, 101], [1, 101]], float)
    mask = Segmentation.from_polygons([corners], (side, side))
    from fastsam_core.formats import yolo, yolo_folder

    (line,) = yolo.lines([mask.to_single_polygon() / side], [0])
    (tmp_path / "a.txt").write_text(line)
    (read,) = yolo_folder.read_file(tmp_path / "a.txt", (side, side))
    assert read.segmentation is not None and read.segmentation.rle == mask.rle


def test_tolerance_shrinks_files_and_bounds_the_error() -> None:
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(x - 100, y - 90) < 70
    labels = ImageLabels("a/b.png", 200, 200, [LabelledObject(0, Segmentation.from_rle(encoded(disc)))])
    sizes = []
    for tolerance in (0.0, 1.0):
        with written("yolo", [labels], tolerance=tolerance) as target:
            sizes.append((target / "a" / "b.txt").stat().st_size)
            (read,) = read_labels(target, "yolo")
    assert sizes[1] < sizes[0] / 4
    wrong = pixels(read, 0) ^ disc
    # Pixels change only near the outline.
    border = cv2.dilate(disc.astype(np.uint8), np.ones((5, 5))) != cv2.erode(disc.astype(np.uint8), np.ones((5, 5)))
    assert wrong.any() and not (wrong & ~border).any()


# -------------------------------------------------------------------------------------------------------- other details


def test_labelme_files_have_the_image_path_or_its_data(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    Image.new("RGB", (5, 4)).save(tmp_path / "photos" / "sub" / "ä b.png")
    labels = ImageLabels("sub/ä b.png", 5, 4, [])
    for options, path in (({}, "ä b.png"), ({"images": tmp_path / "photos"}, "../../photos/sub/ä b.png")):
        with open_writer(tmp_path / "out", "labelme", **options) as writer:
            writer.write(labels)
        document = json.loads((tmp_path / "out" / "sub" / "ä b.json").read_text(encoding="utf-8"))
        assert document["imagePath"] == path and document["imageData"] is None
        assert (document["imageHeight"], document["imageWidth"]) == (4, 5)
    with open_writer(tmp_path / "out", "labelme", images=tmp_path / "photos", embed_images=True) as writer:
        writer.write(labels)
    document = json.loads((tmp_path / "out" / "sub" / "ä b.json").read_text(encoding="utf-8"))
    assert base64.b64decode(document["imageData"]) == (tmp_path / "photos" / "sub" / "ä b.png").read_bytes()
    with pytest.raises(ValueError, match="embed_images needs images"):
        open_writer(tmp_path / "out", "labelme", embed_images=True)


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "PNG"), ("tif", "PNG")])
def test_labelme_files_embed_upright_images(tmp_path: Path, suffix: str, kind: str) -> None:
    """LabelMe ignores the EXIF orientation of `imageData`, but polygons belong to the upright image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    left_is_white = np.zeros((16, 32, 3), np.uint8)
    left_is_white[:, :16] = 255
    Image.fromarray(left_is_white).save(tmp_path / f"a.{suffix}", exif=exif)
    with open_writer(tmp_path / "out", "labelme", images=tmp_path, embed_images=True) as writer:
        writer.write(ImageLabels(f"a.{suffix}", 16, 32))
    embedded = base64.b64decode(json.loads((tmp_path / "out" / "a.json").read_text())["imageData"])
    with Image.open(io.BytesIO(embedded)) as image:
        assert image.format == kind and 0x0112 not in image.getexif()
        stored = np.asarray(image)
    assert stored.shape == (32, 16, 3) and stored[:14].min() > 200 and stored[18:].max() < 50


def test_label_maps_of_many_objects_have_16_bits(tmp_path: Path) -> None:
    one = np.zeros((20, 20), bool)
    objects = []
    for place in range(300):
        mask = one.copy()
        mask.flat[place] = True
        objects.append(LabelledObject(place % 7, Segmentation.from_rle(encoded(mask))))
    labels = ImageLabels("a.jpg", 20, 20, objects)
    for options, largest, dtype in (({}, 300, np.uint16), ({"values": "class"}, 7, np.uint8)):
        with open_writer(tmp_path, "labelmap", **options) as writer:
            writer.write(labels)
        drawn = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
        assert drawn.dtype == dtype and drawn.max() == largest
        np.testing.assert_array_equal(drawn.flat[:300] != 0, True)
        assert not drawn.flat[300:].any()
    labels.objects = [LabelledObject(70_000, objects[0].segmentation)]
    with (
        pytest.raises(ValueError, match="65535, but 70001"),
        open_writer(tmp_path, "labelmap", values="class") as writer,
    ):
        writer.write(labels)
    for wrong in ({"values": "pixel"}, {"order": "size"}):
        with pytest.raises(ValueError, match="must be one of"):
            open_writer(tmp_path, "labelmap", **wrong)


def test_writer_memory_does_not_grow_with_the_masks(tmp_path: Path) -> None:
    import tracemalloc

    noise = np.random.default_rng(0).random((256, 256)) < 0.5
    mask = Segmentation.from_rle(encoded(noise))
    held = []
    with open_writer(tmp_path / "all.json", "coco") as writer:
        tracemalloc.start()
        for image in range(60):
            writer.write(ImageLabels(f"{image}.jpg", 256, 256, [LabelledObject(0, mask)] * 4))
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (tmp_path / "all.json").stat().st_size > 5_000_000
    assert held[-1] - held[20] < 100_000
