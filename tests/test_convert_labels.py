"""Tests `convert_labels` and `fastsam convert`: conversions, output and errors."""

from __future__ import annotations

import errno
import json
import os
import shlex
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastsam_core.cli import main
from fastsam_core.formats import (
    ImageLabels,
    LabelledObject,
    Segmentation,
    convert_labels,
    open_writer,
    read_labels,
)


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YOLO data set of three images, the last of which has no label file."""
    monkeypatch.chdir(tmp_path)
    for name in ("1", "2", "sub/3"):
        (tmp_path / "data" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(f"data/images/{name}.png")
    (tmp_path / "data" / "labels").mkdir()
    Path("data/labels/1.txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n1 0.5 0.5 0.2 0.4\n")
    Path("data/labels/2.txt").write_text("")
    Path("data/data.yaml").write_text("names: [cat, dog]\n")
    return tmp_path


def run(line: str) -> int:
    return main(shlex.split(line))


@pytest.mark.parametrize(
    ("form", "switch"),
    [("coco", "--polygons"), ("coco", "polygons"), ("labelme", "--embed-images"), ("labelme", "embed_images")],
)
def test_switch_of_convert_alone_means_true(work_dir: Path, form: str, switch: str) -> None:
    target = "labels.json" if form == "coco" else "out"
    assert run(f"convert data=data from=yolo {switch} images=data/images to={form} output={target}") == 0
    if form == "coco":
        assert isinstance(json.loads(Path(target).read_text())["annotations"][0]["segmentation"], list)
    else:
        assert json.loads(Path("out/1.json").read_text())["imageData"]


def test_scores_alone_means_true(work_dir: Path) -> None:
    Path("data/labels/1.txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6 0.5\n")
    assert run("convert data=data from=yolo to=yolo --scores output=scored images=data/images") == 0
    assert Path("scored/1.txt").read_text() == Path("data/labels/1.txt").read_text()


def test_convert_command(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert data=data from=yolo to=coco output=out/labels.json polygons=True") == 0
    assert "3 images, 2 objects; saved to out/labels.json" in capsys.readouterr().out
    document = json.loads(Path("out/labels.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["1.png", "2.png", "sub/3.png"]
    assert [entry["name"] for entry in document["categories"]] == ["cat", "dog"]
    assert document["annotations"][0]["segmentation"] == [[2, 1, 12, 1, 12, 6, 2, 6]]
    assert document["annotations"][1]["bbox"] == pytest.approx([8, 3, 4, 4])

    assert run("convert --data out/labels.json --from coco --to yolo --output back --images data/images") == 0
    assert Path("back/1.txt").read_text() == Path("data/labels/1.txt").read_text()
    assert Path("back/2.txt").read_text() == Path("back/sub/3.txt").read_text() == ""
    assert Path("back/data.yaml").read_text().endswith('names:\n  0: "cat"\n  1: "dog"\n')

    assert run("convert data=out/labels.json from=coco to=labelmap output=maps values=class") == 0
    assert (
        "3 images, 1 object; 1 object skipped, not representable in labelmap; saved to maps" in capsys.readouterr().out
    )
    drawn = np.asarray(Image.open("maps/1.png"))
    assert drawn.sum() == 10 * 5 and drawn[1, 2] == 1


def test_tilde_in_paths_is_expanded(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(work_dir))
    monkeypatch.setenv("USERPROFILE", str(work_dir))
    assert (
        run("convert data=~/data/labels images=~/data/images names=~/data/data.yaml from=yolo to=coco output=~/a.json")
        == 0
    )
    assert read_labels("a.json", "coco").names == {0: "cat", 1: "dog"}


def test_names_and_images_as_arguments(work_dir: Path) -> None:
    assert run("""convert data=data/labels images=data/images names="['a','b']" from=yolo to=labelme output=me""") == 0
    document = json.loads(Path("me/1.json").read_text())
    assert [shape["label"] for shape in document["shapes"]] == ["a", "b"]
    assert document["imagePath"] == "../data/images/1.png"
    done = convert_labels("data", "sa", from_="yolo", to="sa1b", names={0: "x"}, progress=True)
    assert (done.images, done.objects, done.left_out) == (3, 1, 1)
    # SA-1B has no class names of its own.
    assert convert_labels("sa", "c.json", from_="sa1b", to="coco", names=["x", "y"]).objects == 1
    assert read_labels("c.json", "coco").names == {0: "x", 1: "y"}


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("convert data=data from=yolo to=coco", 2, "convert needs output=...; for labels: data=labels/ from=yolo"),
        ("convert", 2, "convert needs data=..."),
        ("convert data=data from=voc to=coco output=x.json", 2, "from=voc; accepted: yolo, coco, sa1b, labelme"),
        ("convert data=data from=yolo to=png output=x", 2, "to=png; accepted: yolo, coco, sa1b, labelme, labelmap"),
        (
            "convert data=data from=yolo to=coco output=x.json polygon=1",
            2,
            "of convert to=coco; did you mean polygons?",
        ),
        ("convert data=data from=yolo to=sa1b output=x zzz=1", 2, "accepted: images, names"),
        ("convert data=data from=yolo to=coco output=folder", 1, "a COCO file is one .json file, not 'folder'"),
        ("convert data=data from=yolo to=yolo output=data", 1, "source and target are both data"),
        (
            "convert data=data from=yolo to=coco output=x.json polygons=no",
            1,
            "polygons must be True or False, not 'no'",
        ),
        ("convert data=data from=yolo to=coco output=x.json first_id=a", 1, "first_id must be an integer, not 'a'"),
        ("convert data=data from=yolo to=labelme output=x embed_images=no", 1, "embed_images must be True or False"),
        ("convert data=nowhere from=yolo to=sa1b output=x", 1, "no such folder: nowhere"),
        ("convert data=nothing.json from=coco to=sa1b output=x", 1, "nothing.json"),
        ("convert data=data from=coco to=sa1b output=x", 1, "data is a folder; COCO labels are one .json file"),
        ("convert data=data from=yolo to=sa1b output=data/data.yaml", 1, "labels are written to a folder"),
        ("convert data=data from=yolo to=sa1b output=data/data.yaml/x", 1, "yaml/x or a folder above it is a file"),
    ],
)
def test_wrong_commands_are_refused(
    work_dir: Path, capsys: pytest.CaptureFixture[str], line: str, status: int, message: str
) -> None:
    assert run(line) == status
    text = capsys.readouterr().err
    assert text.startswith("fastsam: error: ") and text.count("\n") == 1 and message in text, text


@pytest.mark.parametrize("to", ["coco", "sa1b", "labelme", "yolo"])
def test_given_names_replace_those_of_the_source(work_dir: Path, to: str) -> None:
    mask = Segmentation.from_polygons([[(1, 1), (5, 1), (5, 5)]], (10, 20))
    with open_writer("unnamed", "sa1b") as writer:
        for name, names in (("1.png", {}), ("2.png", {0: "cow"})):
            writer.write(ImageLabels(name, 20, 10, [LabelledObject(0, mask), LabelledObject(1, mask)], names))
    target = "named.json" if to == "coco" else "named"
    convert_labels("unnamed", target, from_="sa1b", to=to, names=["horse", "dog"])
    if to == "labelme":
        found = [json.loads(Path(f"named/{number}.json").read_text())["shapes"] for number in (1, 2)]
        assert [[shape["label"] for shape in shapes] for shapes in found] == [["horse", "dog"], ["horse", "dog"]]
    elif to == "sa1b":
        found = [json.loads(Path(f"named/{number}.json").read_text())["annotations"] for number in (1, 2)]
        assert [[entry["class_name"] for entry in objects] for objects in found] == [["horse", "dog"], ["horse", "dog"]]
    else:
        options = {} if to == "coco" else {"images": "data/images"}
        assert read_labels(target, to, **options).names == {0: "horse", 1: "dog"}


def test_labels_beside_images_and_unknown_formats(work_dir: Path) -> None:
    # LabelMe files may be written beside the images.
    assert convert_labels("data", "data/images", from_="yolo", to="labelme", images="data/images").images == 3
    assert json.loads(Path("data/images/sub/3.json").read_text())["imagePath"] == "3.png"
    for formats in ({"from_": "voc", "to": "coco"}, {"from_": "yolo", "to": "voc"}):
        with pytest.raises(ValueError, match="='voc'; accepted: yolo, coco, sa1b"):
            convert_labels("data", "new.json", images="data/images", **formats)


def test_sources_and_images_are_never_overwritten(work_dir: Path) -> None:
    convert_labels("data", "set/1.json", from_="yolo", to="coco")
    convert_labels("set/1.json", "sa1b", from_="coco", to="sa1b")
    (work_dir / "set" / "link").symlink_to(work_dir / "data" / "images")
    before = {path: path.read_bytes() for path in work_dir.rglob("*") if path.is_file()}
    mistakes: list[tuple[str, str, str, str]] = [
        ("data", "data/labels", "yolo", "yolo"),
        ("data/labels", "data/labels", "yolo", "yolo"),
        ("data", "data/images", "yolo", "labelmap"),
        ("data", "set/link", "yolo", "labelmap"),
        ("set/1.json", "data/images", "coco", "labelmap"),
        ("set/1.json", "set", "coco", "sa1b"),
        ("set/1.json", "set", "coco", "labelme"),
        ("set/1.json", "set/1.json", "coco", "coco"),
        ("sa1b", "sa1b/2.json", "sa1b", "coco"),
        ("sa1b/2.json", "sa1b", "sa1b", "sa1b"),
    ]
    for source, target, from_, to in mistakes:
        with pytest.raises(ValueError, match=r"give another target|the images|perhaps the source image"):
            convert_labels(source, target, from_=from_, to=to)
    assert {path: path.read_bytes() for path in work_dir.rglob("*") if path.is_file()} == before
    for _ in range(2):  # results of an earlier conversion are replaced
        convert_labels("data", "data/masks", from_="yolo", to="labelmap")
        convert_labels("set/1.json", "data/images/masks", from_="coco", to="labelmap", images="data/images")
        convert_labels("sa1b", "set/2.json", from_="sa1b", to="coco")
    Image.new("L", (20, 10)).save("data/images/1.png")  # looks like a label map
    for source, from_, images in (("data", "yolo", None), ("set/1.json", "coco", "data/images")):
        with pytest.raises(ValueError, match="the folder of the images"):
            convert_labels(source, "data/images", from_=from_, to="labelmap", images=images)


def test_label_maps_never_replace_a_huge_colour_image(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(content)
    with open_writer(tmp_path, "labelmap") as writer, pytest.raises(ValueError, match="perhaps the source image"):
        writer.write(ImageLabels("a.png", 20, 10))
    assert (tmp_path / "a.png").read_bytes() == content


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_label_maps_replace_label_maps_but_no_grey_image(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (20, 10)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with open_writer(tmp_path, "labelmap") as writer:
        with pytest.raises(ValueError, match="perhaps the source image"):
            writer.write(ImageLabels("a.png", 20, 10))
        writer.write(ImageLabels("b.png", 20, 10))
    assert (tmp_path / "a.png").read_bytes() == before
    with open_writer(tmp_path, "labelmap") as writer:
        writer.write(ImageLabels("b.png", 20, 10))


def test_malformed_file_leaves_no_coco_file(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/labels/2.txt").write_text("0 0.1 0.1 nan 0.1\n")
    assert run("convert data=data from=yolo to=coco output=labels.json") == 1
    assert "2.txt, line 1: nan lies outside [0, 1]" in capsys.readouterr().err
    assert not Path("labels.json").exists() and sorted(path.name for path in work_dir.iterdir()) == ["data"]


def test_malformed_objects_can_be_skipped(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square = [[2, 1, 12, 1, 12, 6, 2, 6]]
    with open_writer("good.json", "coco") as writer:
        obj = LabelledObject(0, Segmentation.from_polygons([np.reshape(square, (-1, 2))], (10, 20)))
        writer.write(ImageLabels("1.png", 20, 10, [obj] * 14))
    document = json.loads(Path("good.json").read_text())
    for annotation in document["annotations"][1:-1]:
        annotation["bbox"] = [1, 2]
    Path("bad.json").write_text(json.dumps(document))
    assert convert_labels("good.json", "sa1b", from_="coco", to="sa1b").objects == 14
    path = Path("sa1b/1.json")
    document = json.loads(path.read_text())
    for annotation in document["annotations"][1:-1]:
        del annotation["segmentation"]
    path.write_text(json.dumps(document))
    good = Path("data/labels/1.txt").read_text()
    Path("data/labels/1.txt").write_text("0 0.1\n" * 4 + good + "0 0.1\n" * 8)
    for source, reason in (
        ("bad.json from=coco", "annotations[1].bbox"),
        ("sa1b from=sa1b", "annotations[1]: 'segmentation' is missing"),
        ("data from=yolo", "1.txt, line 1: "),
    ):
        for option in ("", "on_error=raise"):
            assert run(f"convert data={source} to=coco output=out.json {option}") == 1
            assert reason in capsys.readouterr().err and not Path("out.json").exists()
        assert run(f"convert data={source} to=coco output=out.json on_error=skip") == 0
        said = capsys.readouterr()
        assert "2 objects; 12 objects skipped, malformed; saved to out.json" in said.out
        assert reason in said.err and said.err.count("skipped ") == 10
        assert said.err.rstrip().endswith("; further errors are only counted")
        assert len(json.loads(Path("out.json").read_text())["annotations"]) == 2
        Path("out.json").unlink()
    with pytest.raises(ValueError, match="on_error='ignore'; accepted: raise, skip"):
        convert_labels("data", "out.json", from_="yolo", to="coco", on_error="ignore")


def test_unreadable_image_is_left_out(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/images/1.png").write_bytes(b"not an image")
    assert run("convert data=data from=yolo to=coco output=labels.json") == 0
    said = capsys.readouterr()
    assert "2 images, 0 objects" in said.out and "1.png: not an image" in said.err
    document = json.loads(Path("labels.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["2.png", "sub/3.png"]
    for name in ("2", "sub/3"):
        Path(f"data/images/{name}.png").write_bytes(b"not an image")
    assert run("convert data=data from=yolo to=coco output=none.json") == 1
    assert not Path("none.json").exists()


def test_unknown_options_and_formats_are_refused(work_dir: Path) -> None:
    with pytest.raises(ValueError, match="to='voc'; accepted: "):
        open_writer("x", "voc")
    with pytest.raises(ValueError, match="from_='labelmap'; accepted: "):
        convert_labels("data", "x", from_="labelmap", to="coco")
    with pytest.raises(TypeError, match=r"sa1b has no option 'images'; accepted: on_error"):
        read_labels("x.json", "sa1b", images="y")
    with pytest.raises(TypeError, match=r"yolo has no option 'order'; accepted: tolerance, scores"):
        convert_labels("data", "x", from_="yolo", to="yolo", order="area")


@pytest.mark.parametrize("format", ["yolo", "coco", "labelme"])
@pytest.mark.parametrize(("tolerance", "error"), [(float("nan"), ValueError), (-1, ValueError), ("1", TypeError)])
def test_wrong_tolerance_is_refused(tmp_path: Path, format: str, tolerance: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tolerance must be a"):
        open_writer(tmp_path / "new.json", format, tolerance=tolerance)
    assert not list(tmp_path.iterdir())


def test_error_of_read_only_folder_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_WRONLY or flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return plain(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError) as caught:
        open_writer(tmp_path / "labels.json", "coco")
    assert caught.value.filename == str(tmp_path / "labels.json")
