"""Runs that stop, in every way, and go on; and folders that must not be written to."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import fastsam_core
from annotate_kills import TINY, detector, make_images, recorded, tiny_sam, tree
from fastsam_core import SAM, auto_annotate, cli
from fastsam_core.annotate import files
from fastsam_core.annotate.manifest import Manifest
from fastsam_core.annotate.shards import Shard
from fastsam_core.models import checkpoint, registry
from fastsam_core.models.image_encoder import ImageEncoderViT
from golden_recipe import fill_state_dict
from picture_files import write_video

SAME = "annotate_kills.detector"


@pytest.fixture(scope="module")
def sam() -> SAM:
    return tiny_sam()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve pictures in three folders."""
    make_images(tmp_path / "images", 12)
    return tmp_path / "images"


class CountingDetector:
    """The detector of the generated pictures, which counts what it is asked for. fingerprint: what it passes for."""

    def __init__(self, fingerprint: str | None = None) -> None:
        self.calls = 0
        self.fingerprint = fingerprint

    def __call__(self, image: np.ndarray) -> Any:
        self.calls += 1
        return detector(image)


@pytest.mark.slow
def test_kills_crashes_and_shares_change_nothing(tmp_path: Path) -> None:
    """30 runs killed at random moments, one that dies at each step that touches the disk, three at once."""
    script = Path(__file__).with_name("annotate_kills.py")
    roots = [Path(fastsam_core.__file__).parents[1], *map(Path, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    progress = report["label files after each kill"]
    assert len(progress) == 30 and sum(0 < count < 89 for count in progress) > 15, "no kill fell into the work"
    assert report["recorded by shares"] == 90 and report["crash points"] > 10


def test_a_second_run_does_nothing_again(sam: SAM, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    counting = CountingDetector()
    target = auto_annotate(images, counting, sam)
    before = tree(target)
    assert counting.calls == 12
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        assert auto_annotate(images, counting, sam) == target
    assert counting.calls == 12 and tree(target) == before
    assert "12 label files" in caplog.text and "all done before" in caplog.text


def test_files_that_are_gone_and_images_that_are_new(sam: SAM, images: Path) -> None:
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


def test_a_replaced_image_whose_label_file_was_removed(
    sam: SAM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its new class is in the files of all images, and when it can't be read any more, it is left out of them."""

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
def test_a_name_that_goes_to_another_image(
    sam: SAM, images: Path, tmp_path: Path, before: list[str], after: list[str]
) -> None:
    """Which of several images has the name `a` depends on which ones there are: labels follow the images."""
    pictures = {
        name: Image.open(images / "abc"[i % 3] / f"{i:05}.png") for i, name in enumerate(sorted({*before, *after}))
    }
    folder, options = tmp_path / "changing", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for names in (before, after):
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            pictures[name].save(folder / name)
        target = auto_annotate(folder, detector, sam, **options)
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert fresh.items() <= tree(target).items()
    counting = CountingDetector(SAME)
    auto_annotate(folder, counting, sam, **options)
    assert counting.calls == 0


def video_of(path: Path, images: Path, first: int, last: int) -> None:
    pictures = [cv2.imread(str(images / "abc"[i % 3] / f"{i:05}.png")) for i in range(first, last)]
    write_video(path, [cv2.resize(picture, (64, 48)) for picture in pictures])


def test_arrays_are_told_apart_by_their_pixels(sam: SAM, images: Path, tmp_path: Path) -> None:
    """Those of another call have the same names."""
    pictures = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    options: dict[str, Any] = {"formats": ["yolo", "coco"]}
    counting = CountingDetector(SAME)
    for chosen in (pictures[:3], pictures[2:6], [pictures[7] * 0, *pictures[3:6]], pictures[2:4]):
        target = auto_annotate(chosen, counting, sam, output_dir=tmp_path / "out", **options)
        fresh = tree(auto_annotate(chosen, detector, sam, output_dir=tmp_path / f"fresh{counting.calls}", **options))
        assert fresh.items() <= tree(target).items()
    assert counting.calls == 3 + 4 + 1 + 1  # of the last two calls, all but one were known


def test_a_video_that_is_cut_off_in_a_share(sam: SAM, images: Path, tmp_path: Path) -> None:
    """Its frames belong to the video's share, whatever their own keys would say."""
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
    share = next(f"{i}/2" for i in range(2) if "v.avi" in Shard(i, 2))
    with pytest.raises(KeyboardInterrupt):
        auto_annotate(folder, interrupted, sam, shard=share, output_dir=tmp_path / "out", **options)
    done = recorded(tmp_path / "out")
    assert 2 <= len(done) < 8
    auto_annotate(folder, detector, sam, shard=share, output_dir=tmp_path / "out", **options)
    assert set(recorded(tmp_path / "out").values()) == {1}
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert tree(tmp_path / "out") == fresh


def test_files_of_frames_and_arrays_that_are_gone(sam: SAM, images: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "videos", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for count, name in ((2, "v.mkv"), (3, "v.avi")):  # of which one has another name
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


def test_folders_of_labels_are_listed_once(sam: SAM, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no more than 64 are remembered at a time."""
    pictures = sorted(images.rglob("*.png"))[:2]
    for number in range(70):
        (images / f"more{number}").mkdir()
        for picture in pictures:
            shutil.copy(picture, images / f"more{number}")
    target, options = images.parent / "labels", {"output_dir": images.parent / "labels", "preview": 0}
    auto_annotate(images, detector, sam, **options)
    listed: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(os.fspath(path)) or listdir(path))
    auto_annotate(images, detector, sam, **options)
    of_labels = [path for path in listed if Path(path).is_relative_to(target) and "more" in path]
    assert len(of_labels) == len(set(of_labels)) == 70


def test_a_name_that_goes_to_another_video(sam: SAM, images: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "videos", {"formats": ["yolo", "coco"], "preview": 0}
    folder.mkdir()
    for count, name in ((2, "v.mkv"), (3, "v.avi")):
        video_of(folder / name, images, count, 2 * count)
        target = auto_annotate(folder, detector, sam, **options)
    fresh = tree(auto_annotate(folder, detector, sam, output_dir=tmp_path / "fresh", **options))
    assert tree(target) == fresh


@pytest.mark.parametrize("batch", [1, 5])
def test_an_interruption(sam: SAM, images: Path, tmp_path: Path, batch: int) -> None:
    """Ctrl-C within the detector: what was written is recorded, and the rest follows."""
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
def test_a_disk_that_takes_no_more(
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
        ({"det_model": None}, r"det_model was .* and is null"),
    ],
)
def test_other_settings_need_another_folder(sam: SAM, images: Path, changed: dict[str, Any], said: str) -> None:
    options = {"det_model": detector, **changed}
    target = auto_annotate(images, detector, sam)
    before = tree(target)
    with pytest.raises(ValueError, match=said):
        auto_annotate(images, sam_model=sam, **options)
    assert tree(target) == before
    if "conf" in changed:
        auto_annotate(images, sam_model=sam, **options, resume=False)
        assert recorded(target).total() == 12


def test_other_weights_and_other_images_need_another_folder(images: Path, sam: SAM, tmp_path: Path) -> None:
    target = auto_annotate(images, detector, sam)
    other = tiny_sam()
    other.model.image_encoder.pos_embed.data += 1
    with pytest.raises(ValueError, match=r"sam_model was .*sam_b sha256:\w+.* and is .*sam_b sha256:\w+"):
        auto_annotate(images, detector, other)
    shutil.copytree(images, tmp_path / "second")
    with pytest.raises(ValueError, match=r"data was .*images.* and is .*second"):
        auto_annotate(tmp_path / "second", detector, sam, output_dir=target)
    # Moved together, they are the same.
    (tmp_path / "moved").mkdir()
    images.rename(tmp_path / "moved" / "images")
    target.rename(tmp_path / "moved" / target.name)
    counting = CountingDetector(SAME)
    auto_annotate(tmp_path / "moved" / "images", counting, sam)
    assert counting.calls == 0


def test_labels_that_no_run_wrote_are_not_replaced(sam: SAM, images: Path, tmp_path: Path) -> None:
    """People keep their own labels in a folder called labels."""
    own = tmp_path / "labels" / "a" / "00003.txt"
    own.parent.mkdir(parents=True)
    own.write_text("0 0.1 0.1 0.2 0.2 0.3 0.1\n")
    with pytest.raises(ValueError, match=r"labels of 1 of the images, such as a/00003\.txt.*resume=False"):
        auto_annotate(images, detector, sam, output_dir=tmp_path / "labels")
    assert own.read_text() == "0 0.1 0.1 0.2 0.2 0.3 0.1\n"
    assert [path for path in (tmp_path / "labels").rglob("*") if path.is_file()] == [own]
    auto_annotate(images, detector, sam, output_dir=tmp_path / "labels", resume=False)
    assert own.read_text() != "0 0.1 0.1 0.2 0.2 0.3 0.1\n"


def test_starting_afresh_forgets_all_shares(sam: SAM, images: Path) -> None:
    for share in range(2):
        target = auto_annotate(images, detector, sam, shard=f"{share}/2")
    before = tree(target)
    assert len(list(target.glob("manifest-*.jsonl"))) == 2
    auto_annotate(images, detector, sam, resume=False)
    assert [path.name for path in target.glob("manifest*.jsonl")] == ["manifest.jsonl"]
    assert tree(target) == before


def test_shares_that_start_afresh_forget_other_runs(sam: SAM, images: Path) -> None:
    target = auto_annotate(images, detector, sam)
    auto_annotate(images, detector, sam, shard="1/3", resume=False)
    expected = tree(auto_annotate(images, detector, sam, conf=0.55, output_dir=images.parent / "whole"))
    for share in range(2):
        auto_annotate(images, detector, sam, conf=0.55, shard=f"{share}/2", resume=False)
    assert sorted(path.name for path in target.glob("manifest*")) == ["manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"]
    assert tree(target) == expected


def test_starting_afresh_beside_another_process(sam: SAM, images: Path) -> None:
    """It must not take away what that process writes."""
    target = auto_annotate(images, detector, sam)
    before = (target / "manifest.jsonl").read_bytes()
    settings = json.loads(before.splitlines()[0])["settings"]
    other = Manifest(target, settings)
    unfinished = target / ".partial" / "manifest"
    unfinished.mkdir(parents=True)
    try:
        with pytest.raises(ValueError, match="another process is writing"):
            auto_annotate(images, detector, sam, resume=False)
        assert (target / "manifest.jsonl").read_bytes() == before and unfinished.is_dir()
    finally:
        other.close()
    other = Manifest(target, settings, Shard(0, 2))
    try:
        for share in ("0/1", "1/2"):  # the other run, whose labels are made in another way, can't be forgotten now
            with pytest.raises(ValueError, match="another process is writing"):
                auto_annotate(images, detector, sam, conf=0.3, shard=share, resume=False)
        assert other.path.exists()
    finally:
        other.close()


def test_the_last_share_writes_what_belongs_to_all(
    sam: SAM, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"formats": ["yolo", "coco"], "output_dir": tmp_path / "out"}
    expected = tree(auto_annotate(images, detector, sam, formats=["yolo", "coco"], output_dir=tmp_path / "whole"))
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        auto_annotate(images, detector, sam, shard="2/3", **options)
    assert "of other shards aren't done yet" in caplog.text
    auto_annotate(images, detector, sam, shard="0/3", **options)
    assert not (tmp_path / "out" / "coco.json").exists() and not (tmp_path / "out" / "preview.jpg").exists()
    auto_annotate(images, detector, sam, shard="1/3", **options)
    assert tree(tmp_path / "out") == expected
    assert recorded(tmp_path / "out") == recorded(tmp_path / "whole")
    # One run without shares takes all of it as done.
    counting = CountingDetector(SAME)
    auto_annotate(images, counting, sam, **options)
    assert counting.calls == 0


def test_shares_of_images_that_are_no_files(
    sam: SAM, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    options: dict[str, Any] = {"formats": ["yolo", "coco"], "output_dir": tmp_path / "out"}
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        for share in ("0/2", "1/2"):
            auto_annotate(arrays, detector, sam, shard=share, **options)
    assert caplog.text.count('run with shard="0/1" to write the files that cover all images') == 2
    assert not (tmp_path / "out" / "coco.json").exists()
    counting = CountingDetector(SAME)
    auto_annotate(arrays, counting, sam, shard="0/1", **options)
    assert counting.calls == 0
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == len(arrays)


def test_a_job_without_its_own_arguments(sam: SAM, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        target = auto_annotate(images, detector, sam)
    assert recorded(target).total() == 12
    assert sorted(path.name for path in target.glob("manifest*")) == ["manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"]


@pytest.fixture
def checkpoint_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tiny model as a file, for the command line, which has no say in the size of its input: that is small too."""
    encoder = partial(ImageEncoderViT, 16, 1, 2, (0,), image_size=128, out_channels=16)
    row = dataclasses.replace(TINY, encoder=encoder, image_size=128)
    monkeypatch.setitem(registry.MODELS, "sam_b", row)
    checkpoint._expected.cache_clear()
    torch.save(fill_state_dict(row.build().state_dict()), tmp_path / "tiny.pt")
    yield tmp_path / "tiny.pt"
    checkpoint._expected.cache_clear()


def test_bad_images_do_not_change_the_exit_status(
    tmp_path: Path, checkpoint_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, target = tmp_path / "images", tmp_path / "out"
    make_images(images, 3)
    good = (images / "a" / "00000.png").read_bytes()
    (images / "a" / "00000.png").write_bytes(good[:100])
    (images / "empty.jpg").write_bytes(b"")
    line = ["annotate", f"data={images}", f"model={checkpoint_file}", f"output_dir={target}", "shard=0/1"]
    assert cli.main(line) == 0
    said = capsys.readouterr()
    assert "2 label files" in said.out and "2 skipped" in said.out and "the file is empty" in said.out
    lines = [json.loads(text) for text in (target / "manifest.jsonl").read_text().splitlines()]
    failed = {one["key"]: one["error"] for one in lines if one.get("status") == "error"}
    assert set(failed) == {"a/00000.png", "empty.jpg"} and "damaged" in failed["a/00000.png"]
    # They are tried again, recorded once, and taken in when they have been mended.
    assert cli.main(line) == 0
    assert recorded(target).total() == 4
    (images / "empty.jpg").write_bytes(good)
    assert cli.main(line) == 0
    assert "3 label files" in capsys.readouterr().out and (target / "empty.txt").exists()


def test_stopping_at_the_first_bad_image(sam: SAM, images: Path) -> None:
    (images / "a" / "00000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a/00000\.png: not an image"):
        auto_annotate(images, detector, sam, on_error="raise")
    with pytest.raises(ValueError, match="accepted: skip, raise"):
        auto_annotate(images, detector, sam, on_error="ignore")


def test_one_image_that_the_detector_fails_on(sam: SAM, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    def moody(image: np.ndarray) -> Any:
        if image.shape == shape:
            raise RuntimeError("not this one")
        return detector(image)

    from fastsam_core.sources import read_image

    shape = read_image(images / "c" / "00005.png").shape
    target = auto_annotate(images, moody, sam, batch=4)
    assert not (target / "c" / "00005.txt").exists()
    assert recorded(target)["c/00005.png", "error"] == 1 and recorded(target).total() == 12
    assert "RuntimeError: not this one" in caplog.text
    with pytest.raises(RuntimeError, match="not this one"):
        auto_annotate(images, moody, sam, batch=4, on_error="raise")


@pytest.mark.parametrize("count", [4, 30])
def test_a_detector_that_always_fails(sam: SAM, tmp_path: Path, count: int) -> None:
    """The first error is raised, after all of a few images, and after ten of many."""
    make_images(tmp_path / "images", count)
    calls = 0

    def broken(image: np.ndarray) -> Any:
        nonlocal calls
        calls += 1
        raise RuntimeError(f"failure {calls}")

    with pytest.raises(RuntimeError, match=r"failure 1$"):
        auto_annotate(tmp_path / "images", broken, sam)
    assert calls == min(count, 10)
