"""YOLO label files and class names from other programs: accepted variants, and errors by file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fastsam_core.evaluate.datasets import open_dataset
from fastsam_core.formats import ImageLabels, LabelledObject, YoloWriter, class_names, read_labels, yolo_folder
from fastsam_core.sources.decode import read_image, read_size
from label_examples import filled, pixels, refused

SIZE = (40, 50)


# ---------------------------------------------------------------------------------------------------------- label files


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
        f"3 {SQUARE} 1.02\n",
    ],
)
def test_yolo_line_variants_are_read(tmp_path: Path, text: str) -> None:
    labels = yolo_text(tmp_path, text)
    (found,) = labels.objects
    assert (labels.file_name, labels.size, found.class_id) == ("a.png", SIZE, 3)
    assert found.score == (0.75 if "0.75" in text else 1.02 if "1.02" in text else None)
    np.testing.assert_array_equal(pixels(labels, 0), filled([[5, 4, 25, 4, 25, 20, 5, 20]], *SIZE))


def test_yolo_boxes_are_read_and_clipped(tmp_path: Path) -> None:
    labels = yolo_text(tmp_path, "1 0.5 0.5 0.2 0.1\n2 0.1 0.5 0.4 0.2 0.25\n3 0.9 0.9 0.4 0.4\n")
    assert [found.class_id for found in labels.objects] == [1, 2, 3]
    assert labels.objects[0].box == pytest.approx((20, 18, 30, 22)) and labels.objects[0].score is None
    # Boxes are clipped to the image.
    assert labels.objects[1].box == pytest.approx((0, 16, 15, 24)) and labels.objects[1].score == 0.25
    assert labels.objects[2].box == pytest.approx((35, 28, 50, 40))


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
        (f"-1 {SQUARE}", r"line 2: a class id is an integer from 0 to 999999, not -1"),
        (f"1.5 {SQUARE}", r"line 2: a class id is an integer from 0 to 999999, not 1\.5"),
        (f"1e30 {SQUARE}", r"line 2: a class id is an integer from 0"),
        (f"nan {SQUARE}", r"line 2: a class id is an integer from 0 to 999999, not nan"),
        ("0 0.5 0.5 0_0.1 0.1", r"line 2: '0_0.1' is not a number"),
        ("0 0.5 0.5 \u0660.\u0665 0.1", r"line 2: '.*' is not a number"),
        (f"0 {SQUARE} 7", r"line 2: 10 numbers, the last of which is not a score: 7 lies outside \[0, 1\.1\]"),
        (f"0 {SQUARE} 1.2", r"the last of which is not a score: 1\.2 lies outside"),
        (f"0 {SQUARE} -0.1", r"the last of which is not a score: -0\.1 lies outside"),
    ],
)
def test_invalid_yolo_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(f"0 {SQUARE}\n{line}\n")
    refused("yolo", tmp_path, message)


def test_yolo_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"0 0.1 \xff\xfe")
    refused("yolo", tmp_path, r"a\.txt is not UTF-8 text: invalid start byte at byte 6")


@pytest.mark.parametrize("layout", ["beside", "labels and images", "the root", "other names"])
def test_yolo_folder_layouts(tmp_path: Path, layout: str) -> None:
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
    assert [(record.file_name, record.size, len(record.objects)) for record in found] == [
        ("2.png", (20, 30), 0),
        ("sub/1.png", (20, 30), 1),
        ("sub/3.png", (20, 30), 0),  # without a label file
    ]
    assert len(list(found)) == 3  # can be iterated again


def test_splits_with_folders_of_images_and_labels_each(tmp_path: Path) -> None:
    for split in ("train", "valid/labels"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        Image.new("L", (30, 20)).save(tmp_path / split / "images" / "a.png")
        (tmp_path / split / "labels" / "a.txt").write_text(f"1 {SQUARE}\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")
    (tmp_path / "README.roboflow.txt").write_text("\na set of images\n")
    found = read_labels(tmp_path, "yolo")
    assert found.names == {0: "cat", 1: "dog"}
    names = ["train/images/a.png", "valid/labels/images/a.png"]
    assert [(record.file_name, len(record.objects)) for record in found] == [(name, 1) for name in names]
    data = open_dataset(tmp_path)
    assert [len(data[index].objects) for index in range(2)] == [1, 1] and not list(data.unmatched_label_files())
    (tmp_path / "train" / "images" / "a.txt").write_text("")
    refused("yolo", tmp_path, r"train/images/a\.txt and .*train/labels/a\.txt both belong to .*train/images/a\.png")
    (tmp_path / "train" / "images" / "a.txt").rename(tmp_path / "train" / "labels" / "b.txt")
    refused("yolo", tmp_path, r"no image train/labels/b\.\* in ", FileNotFoundError)


def test_lists_of_images_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "obj_train_data").mkdir()
    Image.new("L", (30, 20)).save(tmp_path / "obj_train_data" / "a.png")
    (tmp_path / "obj_train_data" / "a.txt").write_text(f"1 {SQUARE}\n")
    (tmp_path / "obj.names").write_text("cat\nbig dog\n")
    (tmp_path / "train.txt").write_text("\ufeffdata/obj_train_data/a b.PNG\ndata/c.txt\n", encoding="utf-8")
    found = read_labels(tmp_path, "yolo")
    assert found.names == {0: "cat", 1: "big dog"}
    assert [(record.file_name, len(record.objects)) for record in found] == [("obj_train_data/a.png", 1)]
    assert not list(open_dataset(tmp_path).unmatched_label_files())
    for other in ("a.png.txt", "1 0.5 0.5 0.1 0.1"):
        (tmp_path / "train.txt").write_text(other)
        refused("yolo", tmp_path, r"no image train\.\* in ", FileNotFoundError)


def test_linked_yolo_folders_are_followed_once(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "store" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "train").symlink_to(tmp_path / "store" / kind)
        (tmp_path / "store" / kind / "round").symlink_to(tmp_path / "set" / kind)
    Image.new("L", (30, 20)).save(tmp_path / "store" / "images" / "a.png")
    (tmp_path / "store" / "labels" / "a.txt").write_text(f"1 {SQUARE}\n")
    assert [(record.file_name, len(record.objects)) for record in read_labels(tmp_path / "set", "yolo")] == [
        ("train/a.png", 1)
    ]


def test_yolo_folder_without_images_is_refused(tmp_path: Path) -> None:
    refused("yolo", tmp_path, "no image in .* or below it", FileNotFoundError)


def test_label_file_named_classes_is_not_a_list_of_names(tmp_path: Path) -> None:
    for name in ("classes", "sub/classes"):
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (30, 20)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text(f"1 {SQUARE}\n")
    found = read_labels(tmp_path, "yolo")
    assert [len(record.objects) for record in found] == [1, 1] and found.names == {}
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_labels(tmp_path, "yolo").names == {0: "cat", 1: "dog"}
    (tmp_path / "images" / "classes.png").rename(tmp_path / "images" / "b.png")
    (tmp_path / "labels" / "classes.txt").write_text("cow\n")
    assert read_labels(tmp_path, "yolo").names == {0: "cow"}


def test_labels_without_a_unique_readable_image_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("")
    refused("yolo", tmp_path, r"no image b\.\* in .* for .*b\.txt; give images=", FileNotFoundError)
    (tmp_path / "b.txt").rename(tmp_path / "a.txt")
    Image.new("L", (4, 4)).save(tmp_path / "a.bmp")
    refused("yolo", tmp_path, r"a\.txt may belong to any of a\.bmp, a\.png")
    (tmp_path / "a.bmp").write_bytes(b"BM nothing")
    (tmp_path / "a.png").unlink()
    refused("yolo", tmp_path, r"a\.bmp: damaged BMP header")
    refused("yolo", tmp_path / "nowhere", "no such folder", NotADirectoryError)


def test_sizes_follow_the_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.png", "c.webp", "d.tif"):
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    # Pillow writes a PNG's orientation before the pixels, but it may also follow them.
    data = (tmp_path / "b.png").read_bytes()
    start = data.index(b"eXIf") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    end = data.index(b"IEND") - 4
    chunk, rest = data[start : start + length], data[start + length : end]
    (tmp_path / "e.png").write_bytes(data[:start] + rest + chunk + data[end:])
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    Image.new("RGB", (30, 20)).save(tmp_path / "f.png", pnginfo=xmp)
    Image.new("RGB", (30, 20)).save(tmp_path / "g.png")
    as_image_magick = PngImagePlugin.PngInfo()
    as_image_magick.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n")
    Image.new("RGB", (30, 20)).save(tmp_path / "h.png", pnginfo=as_image_magick)
    sizes = [record.size for record in read_labels(tmp_path, "yolo")]
    assert sizes == [(30, 20)] * 6 + [(20, 30), (30, 20)]
    assert [read_image(path).shape[:2] for path in sorted(tmp_path.iterdir())] == sizes


@pytest.mark.parametrize("orientation", range(10))
def test_size_is_that_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (1, 2)).save(tmp_path / name, exif=exif)
        assert read_size(tmp_path / name) == read_image(tmp_path / name).shape[:2]


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


# ---------------------------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(
    "text",
    [
        "names: [a cat, 'it''s', \"d\\\"g\\u00e9\"]\n",
        "path: x\nnames:\n  - a cat\n  - 'it''s'   # a comment\n  - \"d\\\"g\\u00e9\"\nnc: 3\n",
        "names:\n- a cat\n- 'it''s'\n- \"d\\\"g\\u00e9\"\nnc: 3\n",
        "nc: 3\n\nnames:\n  0: a cat\n\n  1: it's\n  2: d\"g\u00e9\n",
        "names: {0: a cat, 1: 'it''s', 2: \"d\\\"g\\u00e9\"}",
        "names: [a cat,\n  'it''s',\n  \"d\\\"g\\u00e9\",\n]\nnc: 3\n",
        "names:\n- a cat\n- 'it''s'\n- \"d\\\"g\\u00e9\" # a comment\n---\nnc: 3\n",
        "\ufeff# all\r\n\"names\":\r\n  0: a cat\r\n  1: 'it''s'\r\n  2: 'd\"g\u00e9'\r\n",
    ],
)
def test_yaml_names_match_pyyaml(tmp_path: Path, text: str) -> None:
    import yaml

    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    assert class_names.read(tmp_path / "data.yaml") == {0: "a cat", 1: "it's", 2: 'd"gé'}
    theirs = next(yaml.safe_load_all(text))["names"]
    assert (list(theirs.values()) if isinstance(theirs, dict) else theirs) == ["a cat", "it's", 'd"gé']


def test_names_with_special_characters(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names:  # all\n# of them\n  '0': c#  # c sharp\n  \"1\" : ''\n  2: '#'\n")
    assert class_names.read(tmp_path / "data.yaml") == {0: "c#", 2: "#"}
    (tmp_path / "data.yaml").write_text("names: ['it''s # 1', ''''] # two of\n# them\n")
    assert class_names.read(tmp_path / "data.yaml") == {0: "it's # 1", 1: "'"}
    class_names.write(tmp_path / "data.yaml", {2: "#", 0: "c#"})
    assert (tmp_path / "data.yaml").read_text() == 'names:\n  0: "c#"\n  2: "#"\n# them\n'


@pytest.mark.parametrize(
    "text",
    [
        "names: {a: cat}",
        "names: {0}",
        "names: [a: b]",
        "names: cats.txt",
        "names: [a",
        "names:\n  cat",
        "names:\n  -1: cat",
        'names:\n  0: "\\x"',
    ],
)
def test_unreadable_names_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"data.yaml: its names can't be read .*write one `0: name` a line"):
        class_names.read(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    "before",
    [
        "path: .\nnames: [a, b]\n# images\ntrain: images\n\nval: images\n",
        "path: .\nnames:\n- a\n\n- b\n# images\ntrain: images\n\nval: images\n",
        "path: .\n'names':\n  0: a\n  # the second\n  1: b\n# images\ntrain: images\n\nval: images\n",
    ],
)
def test_other_entries_of_a_file_of_names_are_kept(tmp_path: Path, before: str) -> None:
    target = tmp_path / "data.yaml"
    target.write_text(before)
    class_names.write(target, {1: "x", 3: "y"})
    assert target.read_text() == ('path: .\nnames:\n  1: "x"\n  3: "y"\n# images\ntrain: images\n\nval: images\n')
    target.write_text("path: .\n")
    class_names.write(target, {0: "x"})
    assert target.read_text() == 'path: .\nnames:\n  0: "x"\n'


def test_number_of_classes_follows_the_names(tmp_path: Path) -> None:
    target = tmp_path / "data.yaml"
    target.write_text("train: images\nnc: 80\nnames: [a, b]\nncols: 3\n")
    class_names.write(target, {0: "x", 1: "y", 2: "z"})
    assert target.read_text() == 'train: images\nnc: 3\nnames:\n  0: "x"\n  1: "y"\n  2: "z"\nncols: 3\n'


def test_written_names_have_no_gaps(tmp_path: Path) -> None:
    box = (0.0, 0.0, 2.0, 2.0)
    with YoloWriter(tmp_path) as writer:
        writer.write(ImageLabels("a.jpg", 8, 8, [LabelledObject(3, box=box), LabelledObject(1, box=box)], {1: "dog"}))
    assert class_names.read(tmp_path / "data.yaml") == {0: "0", 1: "dog", 2: "2", 3: "3"}


def test_new_file_of_names_says_what_it_lacks(tmp_path: Path) -> None:
    for name in ("new.yaml", "empty.yaml"):
        (tmp_path / "empty.yaml").write_text("")
        class_names.write(tmp_path / name, {0: "x"})
    assert (tmp_path / "empty.yaml").read_text() == 'names:\n  0: "x"\n'
    header, *lines = (tmp_path / "new.yaml").read_text().splitlines()
    assert header.startswith("# ") and "train" in header and lines == ["names:", '  0: "x"']


name = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(names=st.dictionaries(st.integers(0, 99), name, max_size=5))
@example(names={0: "  ", 1: "#", 2: "a: b", 3: "\x85\u2028", 4: "'\"\\", 5: "no", 6: "😀", 7: '1/4" #8'})
@example(names={0: "\x00\x7f", 1: "\ufeff\uffff", 2: "dog\udce9"})  # a byte that isn't UTF-8
def test_names_round_trip_and_match_pyyaml(names: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    import yaml

    path = tmp_path_factory.mktemp("names") / "data.yaml"
    class_names.write(path, names)
    assert class_names.read(path) == names
    assert (yaml.safe_load(path.read_text(encoding="utf-8"))["names"] or {}) == names


def test_names_from_classes_txt_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\r\nbig dog\r\n\r\n")
    labels = yolo_text(tmp_path, "")
    assert labels.names == {0: "cat", 1: "big dog"}
    for given_ in (["", "y"], {1: "y", 2: ""}):  # COCO files can't hold empty names
        assert yolo_text(tmp_path, "", names=given_).names == {1: "y"}
    for given_ in (["x", "y"], {0: "x", 1: "y"}):
        assert yolo_text(tmp_path, "", names=given_).names == {0: "x", 1: "y"}
    assert yolo_text(tmp_path, "", names=tmp_path / "classes.txt").names == {0: "cat", 1: "big dog"}
    # As Supervisely writes it.
    (tmp_path / "data_config.yaml").write_text("names: [kiwi, lemon]   # class names\ncolors: [[255,1,1], [1,255,1]]\n")
    assert yolo_text(tmp_path, "").names == {0: "kiwi", 1: "lemon"}
