"""Tests that annotation runs resume after any kind of end, and that they refuse folders they must not write to."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import fastsam_core
from annotate_kills import SAME, CountingDetector, detector, recorded, tiny_sam, tree
from fastsam_core import SAM, auto_annotate
from fastsam_core.annotate import files
from fastsam_core.annotate.shards import Shard
from fastsam_core.detect import load_detector
from image_examples import write_video


@pytest.mark.slow
def test_kills_crashes_and_shards_change_nothing(tmp_path: Path) -> None:
    """30 runs killed at random moments, runs that die at each step that changes the disk, and three shards at once."""
    script = Path(__file__).with_name("annotate_kills.py")
    roots = [Path(fastsam_core.__file__).parents[1], *map(Path, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    progress = report["label files after each kill"]
    assert len(progress) == 30 and sum(0 < count < 89 for count in progress) > 15, "too few kills fell into the work"
    assert report["recorded by shares"] == 90 and report["crash points"] > 10


def test_second_run_finds_everything_done(sam: SAM, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    counting = CountingDetector()
    target = auto_annotate(images, counting, sam)
    before = tree(target)
    assert counting.calls == 12
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        assert auto_annotate(images, counting, sam) == target
    assert counting.calls == 12 and tree(target) == before
    assert "12 label files" in caplog.text and "all done before" in caplog.text


def test_missing_label_files_and_new_images_are_labelled(sam: SAM, images: Path) -> None:
    counting = CountingDetector()
    target = auto_annotate(images, counting, sam)
    before = tree(target)
    (target / "a" / "00003.txt").unlink()
    shutil.rmtree(target / "b")
    auto_annotate(images, counting, sam)
    assert tree(target) == before and counting.calls == 12 + 1 + 4
    shutil.copy(images / "a" / "00000.png", images / "new.png")
    auto_annotate(images, counting, sam)
    assert counting.calls == 18 and (target / "new.txt").read_text() == (target / "a" / "00000.txt").read_text()
    assert set(recorded(target).values()) == {1, 2}


def test_finished_images_of_a_batch_are_not_written_again(sam: SAM, images: Path) -> None:
    """They are encoded again, beside the one that is not finished, but labels that were edited stay."""
    target = auto_annotate(images, detector, sam, batch=4)
    (target / "a" / "00000.txt").unlink()
    (target / "a" / "00003.txt").write_text("0 0.5 0.5 0.6 0.5 0.6 0.6\n")
    edited = (target / "a" / "00003.txt").read_bytes()
    auto_annotate(images, detector, sam, batch=4)
    assert (target / "a" / "00003.txt").read_bytes() == edited
    assert recorded(target)["a/00000.png", "ok"] == 2 and recorded(target).total() == 13


def test_entries_added_to_data_yaml_survive_another_run(sam: SAM, images: Path, tmp_path: Path) -> None:
    def named(image: np.ndarray) -> Any:
        return [[4, 4, 60, 40]], [0.9], [0], {0: "thing"}

    options = {"output_dir": tmp_path / "labels", "preview": 0}
    names = auto_annotate(images, named, sam, **options) / "data.yaml"
    before = names.read_text()
    names.write_text(before.replace("names:", "train: images\nnames:") + "val: images\n")
    edited = names.read_text()
    shutil.copy(images / "a" / "00000.png", images / "new.png")
    auto_annotate(images, named, sam, **options)
    assert names.read_text() == edited != before


def test_replaced_image_with_removed_label_is_relabelled(
    sam: SAM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The image's new class appears in the files that cover all images; if it is unreadable, it is left out of them."""

    def by_shade(image: np.ndarray) -> Any:
        shade = int(image[0, 0, 0])
        return [[4, 4, 60, 40]], [0.9], [shade // 50], {shade // 50: f"shade {shade}"}

    def shaded(shade: int) -> bytes:
        return cv2.imencode(".png", np.full((48, 64, 3), shade, np.uint8))[1].tobytes()

    folder, options = tmp_path / "shades", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    (folder / "same.png").write_bytes(shaded(0))
    for place, content in enumerate((shaded(50), shaded(150), b"damaged", shaded(200))):
        (folder / "other.png").write_bytes(content)
        (tmp_path / "labels" / "other.txt").unlink(missing_ok=True)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            target = auto_annotate(folder, by_shade, sam, output_dir=tmp_path / "labels", **options)
        said = "1 label file in" if content == b"damaged" else "2 label files in"
        assert said in caplog.text
        fresh = auto_annotate(folder, by_shade, sam, output_dir=tmp_path / f"fresh{place}", **options)
        for name in ("coco.json", "data.yaml"):
            assert (target / name).read_bytes() == (fresh / name).read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["a.png", "a.webp"], ["a.bmp", "a.png", "a.webp"]),
        (["a.bmp", "a.png"], ["a.png"]),
        (["a.bmp", "a.png", "a.webp"], ["a.bmp", "a.webp"]),
        (["a.png"], ["A.png", "a.png"]),
    ],
)
def test_labels_follow_images_when_names_shift(
    sam: SAM, images: Path, tmp_path: Path, before: list[str], after: list[str]
) -> None:
    """Which of several images gets the label name `a` depends on which ones exist. Labels must follow the images."""
    images_by_name = {
        name: Image.open(images / "abc"[i % 3] / f"{i:05}.png") for i, name in enumerate(sorted({*before, *after}))
    }
    folder, options = tmp_path / "changing", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for names in (before, after):
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            images_by_name[name].save(folder / name)
        target = auto_annotate(folder, detector, sam, **options)
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert fresh.items() <= tree(target).items()
    counting = CountingDetector(SAME)
    auto_annotate(folder, counting, sam, **options)
    assert counting.calls == 0


def video_of(path: Path, images: Path, first: int, last: int) -> None:
    frames = [cv2.imread(str(images / "abc"[i % 3] / f"{i:05}.png")) for i in range(first, last)]
    write_video(path, [cv2.resize(frame, (64, 48)) for frame in frames])


def test_arrays_are_identified_by_their_pixels(sam: SAM, images: Path, tmp_path: Path) -> None:
    """Arrays of different calls have the same names, so only their pixels tell them apart."""
    arrays = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    options: dict[str, Any] = {"formats": ["yolo", "coco"]}
    counting = CountingDetector(SAME)
    for chosen in (arrays[:3], arrays[2:6], [arrays[7] * 0, *arrays[3:6]], arrays[2:4]):
        target = auto_annotate(chosen, counting, sam, output_dir=tmp_path / "out", **options)
        fresh = tree(auto_annotate(chosen, detector, sam, output_dir=tmp_path / f"fresh{counting.calls}", **options))
        assert fresh.items() <= tree(target).items()
    assert counting.calls == 3 + 4 + 1 + 1  # each of the last two calls has one new array


def test_interrupted_video_resumes_in_its_shard(sam: SAM, images: Path, tmp_path: Path) -> None:
    """Frames belong to the shard of their video, whatever the hash of their own keys."""
    folder, options = tmp_path / "videos", {"formats": ["yolo", "coco"], "preview": 0, "workers": 1}
    folder.mkdir()
    video_of(folder / "v.avi", images, 0, 10)
    seen = 0

    def interrupted(image: np.ndarray) -> Any:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise KeyboardInterrupt
        return detector(image)

    interrupted.fingerprint = SAME  # type: ignore[attr-defined]
    shard = next(f"{i}/2" for i in range(2) if "v.avi" in Shard(i, 2))
    with pytest.raises(KeyboardInterrupt):
        auto_annotate(folder, interrupted, sam, shard=shard, output_dir=tmp_path / "out", **options)
    done = recorded(tmp_path / "out")
    assert 2 <= len(done) < 8
    auto_annotate(folder, detector, sam, shard=shard, output_dir=tmp_path / "out", **options)
    assert set(recorded(tmp_path / "out").values()) == {1}
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert tree(tmp_path / "out") == fresh


def test_missing_label_files_of_frames_and_arrays_are_rewritten(sam: SAM, images: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "videos", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for count, name in ((2, "v.mkv"), (3, "v.avi")):  # label files of v.mkv are named v-2
        video_of(folder / name, images, count, 2 * count)
    arrays = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))[:3]]
    for data, gone, again in ((folder, ["v_1.txt", ".coco/v-2_0.part"], 2), (arrays, ["image1.txt"], 1)):
        counting = CountingDetector(SAME)
        target = auto_annotate(data, counting, sam, output_dir=tmp_path / "out" / gone[0], **options)
        before, calls = tree(target), counting.calls
        for name in gone:
            (target / name).unlink()
        auto_annotate(data, counting, sam, output_dir=target, **options)
        assert tree(target) == before and counting.calls == calls + again


def test_label_folders_are_listed_once(sam: SAM, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder is listed once, although at most 64 listings are cached at a time."""
    paths = sorted(images.rglob("*.png"))[:2]
    for number in range(70):
        (images / f"more{number}").mkdir()
        for path in paths:
            shutil.copy(path, images / f"more{number}")
    target, options = images.parent / "labels", {"output_dir": images.parent / "labels", "preview": 0}
    auto_annotate(images, detector, sam, **options)
    listed: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(os.fspath(path)) or listdir(path))
    auto_annotate(images, detector, sam, **options)
    of_labels = [path for path in listed if Path(path).is_relative_to(target) and "more" in path]
    assert len(of_labels) == len(set(of_labels)) == 70


def test_labels_follow_videos_when_names_shift(sam: SAM, images: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "videos", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for count, name in ((2, "v.mkv"), (3, "v.avi")):
        video_of(folder / name, images, count, 2 * count)
        target = auto_annotate(folder, detector, sam, **options)
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert tree(target) == fresh


@pytest.mark.parametrize("batch", [1, 5])
def test_interrupted_run_resumes(sam: SAM, images: Path, tmp_path: Path, batch: int) -> None:
    """After Ctrl-C within the detector, what was written is recorded, and the next run does the rest."""
    expected = tree(auto_annotate(images, detector, sam, output_dir=tmp_path / "whole", batch=batch))
    calls = 0

    def interrupted(image: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        return detector(image)

    interrupted.fingerprint = SAME  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        auto_annotate(images, interrupted, sam, output_dir=tmp_path / "out", batch=batch)
    done = len(list((tmp_path / "out").rglob("*.txt")))
    assert done == recorded(tmp_path / "out").total() < 7
    assert not (tmp_path / "out" / ".partial").exists()
    auto_annotate(images, detector, sam, output_dir=tmp_path / "out", batch=batch)
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("part", ["label", "manifest"])
def test_full_or_read_only_disk_raises_and_run_resumes(
    sam: SAM, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, part: str
) -> None:
    expected = tree(auto_annotate(images, detector, sam, output_dir=tmp_path / "whole"))
    left = 5

    def limited(plain: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))
            return plain(*arguments, **options)

        return write

    if part == "label":
        monkeypatch.setattr(files, "atomic_path", limited(files.atomic_path))
    else:
        monkeypatch.setattr(os, "write", limited(os.write))
    with pytest.raises(OSError, match=r"/out[.:].*Finished images are recorded.* to continue") as caught:
        auto_annotate(images, detector, sam, output_dir=tmp_path / "out")
    assert caught.value.errno == number
    assert ("no space is left" in str(caught.value)) == (number == errno.ENOSPC)
    monkeypatch.undo()
    assert 0 < recorded(tmp_path / "out").total() < 12
    auto_annotate(images, detector, sam, output_dir=tmp_path / "out")
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conf": 0.6}, "conf was 0.25 and is 0.6"),
        ({"formats": ["yolo", "png"]}, r'formats was \["yolo"\] and is \["yolo", "png"\]'),
        ({"min_area": 5}, r"min_area was 0\.0 and is 5\.0"),
        ({"det_model": CountingDetector()}, r"annotate_kills\.detector.*CountingDetector"),
        ({"det_model": load_detector(detector, classes=[1])}, r'kills\.detector" and is .*detector classes=\(1,\)"'),
        ({"det_model": None}, r"det_model was .* and is null"),
    ],
)
def test_other_settings_are_refused(sam: SAM, images: Path, changed: dict[str, Any], said: str) -> None:
    options = {"det_model": detector, **changed}
    target = auto_annotate(images, detector, sam)
    before = tree(target)
    with pytest.raises(ValueError, match=said):
        auto_annotate(images, sam_model=sam, **options)
    assert tree(target) == before
    if "conf" in changed:
        auto_annotate(images, sam_model=sam, **options, resume=False)
        assert recorded(target).total() == 12


def test_other_weights_and_other_images_are_refused(images: Path, sam: SAM, tmp_path: Path) -> None:
    target = auto_annotate(images, detector, sam)
    other = tiny_sam()
    other.model.image_encoder.pos_embed.data += 1
    with pytest.raises(ValueError, match=r"sam_model was .*sam_b sha256:\w+.* and is .*sam_b sha256:\w+"):
        auto_annotate(images, detector, other)
    shutil.copytree(images, tmp_path / "second")
    with pytest.raises(ValueError, match=r"data was .*images.* and is .*second"):
        auto_annotate(tmp_path / "second", detector, sam, output_dir=target)
    # Images and labels may be moved together.
    (tmp_path / "moved").mkdir()
    images.rename(tmp_path / "moved" / "images")
    target.rename(tmp_path / "moved" / target.name)
    counting = CountingDetector(SAME)
    auto_annotate(tmp_path / "moved" / "images", counting, sam)
    assert counting.calls == 0


def test_labels_that_no_run_wrote_are_not_replaced(sam: SAM, images: Path, tmp_path: Path) -> None:
    """Users may keep their own labels in the output folder; those need resume=False to be replaced."""
    own = tmp_path / "labels" / "a" / "00003.txt"
    own.parent.mkdir(parents=True)
    own.write_text("0 0.1 0.1 0.2 0.2 0.3 0.1\n")
    with pytest.raises(ValueError, match=r"labels of 1 of the images, such as a/00003\.txt.*resume=False"):
        auto_annotate(images, detector, sam, output_dir=tmp_path / "labels")
    assert own.read_text() == "0 0.1 0.1 0.2 0.2 0.3 0.1\n"
    assert [path for path in (tmp_path / "labels").rglob("*") if path.is_file()] == [own]
    auto_annotate(images, detector, sam, output_dir=tmp_path / "labels", resume=False)
    assert own.read_text() != "0 0.1 0.1 0.2 0.2 0.3 0.1\n"
