"""Check that annotation runs that are killed, crash or are split into shards write what an undisturbed run writes.

`python tests/annotate_kills.py FOLDER --images 2000 --kills 30 --shards 4` prints a JSON report, and fails if anything
differs. Runs are forked from one process that has loaded the model, so a kill costs no start-up time.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastsam_core import SAM, auto_annotate
from fastsam_core.models import registry
from fastsam_core.models.image_encoder import sam_vit
from golden_recipe import fill_state_dict

FORMATS = ("yolo", "coco")


def make_images(folder: Path, count: int) -> None:
    """Write `count` images of one to three discs into three subfolders; every 50th file is truncated."""
    from PIL import Image

    for index in range(count):
        random_numbers = np.random.default_rng(index)
        height, width = 48 + int(random_numbers.integers(32)), 64 + int(random_numbers.integers(32))
        image = random_numbers.integers(0, 40, (height, width, 3), dtype=np.uint8)
        yy, xx = np.mgrid[:height, :width]
        for _ in range(int(random_numbers.integers(1, 4))):
            x, y, radius = random_numbers.random(3) * [width, height, 16] + [0, 0, 6]
            image[np.hypot(xx - x, yy - y) < radius] = random_numbers.integers(120, 256, 3)
        path = folder / f"{'abc'[index % 3]}" / f"{index:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if index % 50 == 49:
            path.write_bytes(path.read_bytes()[:200])


def detector(image: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Detect bright regions: one box per colour, for at most three colours."""
    bright = image.max(2) >= 120
    boxes, classes = [], []
    for colour in np.unique(image[bright], axis=0)[:3] if bright.any() else []:
        rows, columns = np.nonzero((image == colour).all(2))
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        classes.append(int(colour[0]) % 2)
    return boxes, [0.5 + 0.1 * index for index in range(len(boxes))], classes, ["even", "odd"]


SAME = "annotate_kills.detector"  # how a manifest names it


class CountingDetector:
    """The detector for the generated images, counting its calls. fingerprint: its identity in the manifest."""

    def __init__(self, fingerprint: str | None = None) -> None:
        self.calls = 0
        self.fingerprint = fingerprint

    def __call__(self, image: np.ndarray) -> Any:
        self.calls += 1
        return detector(image)


def tree(folder: Path) -> dict[str, str]:
    """Return a hash of every file except the manifests, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("manifest")
    }


def recorded(folder: Path) -> Counter[tuple[str, str]]:
    """Count how often the manifests record each (key, status)."""
    lines = [json.loads(line) for path in folder.glob("manifest*.jsonl") for line in path.read_text().splitlines()]
    return Counter((line["key"], line["status"]) for line in lines if "key" in line)


TINY = dataclasses.replace(
    registry.MODELS["sam_b"],
    encoder=lambda: sam_vit(16, 1, 2, (0,), out_chans=16),
    embed_dim=16,
    decoder_mlp_dim=32,
)


def tiny_sam() -> SAM:
    """Return a SAM with tiny layers and the golden recipe's weights that keeps every mask."""
    model = TINY.build()
    model.load_state_dict(fill_state_dict(model.state_dict()))
    sam = SAM(model)
    sam.overrides.update(imgsz=64, conf=-1e9)
    return sam


class Runs:
    """Forked runs over one folder of images."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self.sam = tiny_sam()

    def annotate(self, output: Path, **options: Any) -> None:
        """Annotate in this process."""
        auto_annotate(self.images, detector, self.sam, "cpu", output, formats=FORMATS, preview=4, **options)

    def start(self, work: Callable[[], None]) -> int:
        """Fork a child that runs `work` with its output discarded; return its process id."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            work()
            status = 0
        finally:
            os._exit(status)

    def complete(self, output: Path, **options: Any) -> float:
        """Annotate to the end in a forked child; return the seconds that took."""
        started = time.perf_counter()
        child = self.start(partial(self.annotate, output, **options))
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the run into {output} ended with {status}"
        return time.perf_counter() - started


def kill_and_resume(runs: Runs, output: Path, kills: int, whole: int, seed: int) -> list[int]:
    """Kill `kills` runs at random moments; return the number of label files after each kill.

    The runs together get about as far as one undisturbed run. `whole` is the size in bytes of a complete manifest. The
    moments depend on the manifest's size, because elapsed time says little on a busy machine.
    """
    numbers = random.Random(seed)
    manifest = output / "manifest.jsonl"
    progress = []
    for _ in range(kills):
        size = manifest.stat().st_size if manifest.exists() else 0
        target = size + numbers.uniform(0, 1.3 * whole / kills)
        child = runs.start(partial(runs.annotate, output))
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if manifest.exists() and manifest.stat().st_size >= target:
                time.sleep(numbers.uniform(0, 0.03))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.001)
        progress.append(sum(1 for _ in output.glob("[abc]/*.txt")))
    return progress


def crash_everywhere(runs: Runs, folder: Path, expected: dict[str, str]) -> int:
    """Kill a run before each call that changes the disk, or in the middle of it for writes; return how many there are.

    Each killed run is completed by another, which must leave the `expected` files.
    """
    for step in itertools.count():
        output = folder / f"crash{step}"
        child = runs.start(partial(_dying, step, partial(runs.annotate, output, workers=1)))
        _, status = os.waitpid(child, 0)
        runs.complete(output)
        assert tree(output) == expected, f"dying at step {step} changed what was written"
        if status == 0:
            return step
    raise AssertionError("there is a last step")


def _dying(at: int, work: Callable[[], None]) -> None:
    """Run `work`, but exit the process at call number `at` of os.replace, write, fsync and ftruncate, from 0.

    If that call is a write, it writes half of its data first.
    """
    left = [at]

    def fatal(plain: Callable[..., Any], half: bool) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                if half:
                    plain(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(9)
            return plain(*arguments, **options)

        return step

    for name in ("replace", "write", "fsync", "ftruncate"):
        setattr(os, name, fatal(getattr(os, name), name == "write"))
    work()


def divided(runs: Runs, output: Path, count: int) -> None:
    """Annotate `count` shards at the same time, one process each."""
    children = [runs.start(partial(runs.annotate, output, shard=f"{index}/{count}")) for index in range(count)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=90)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"images": options.images}
    few, images = options.folder / "few", options.folder / "images"
    make_images(few / "images", 1)
    make_images(images, options.images)
    # The first run is in this process, so that forked runs needn't import modules and prepare weights.
    runs = Runs(few / "images")
    runs.annotate(few / "first")
    runs.images = images
    report["seconds undisturbed"] = round(runs.complete(options.folder / "whole"), 2)
    expected = tree(options.folder / "whole")
    report["files"] = len(expected)

    started = time.perf_counter()
    killed = options.folder / "killed"
    size = (options.folder / "whole" / "manifest.jsonl").stat().st_size
    report["label files after each kill"] = kill_and_resume(runs, killed, options.kills, size, options.seed)
    runs.complete(killed)
    assert tree(killed) == expected, "kills changed what was written"
    assert set(recorded(killed).values()) == {1}, "an image was recorded twice"
    report["seconds with kills"] = round(time.perf_counter() - started, 2)

    divided(runs, options.folder / "shares", options.shards)
    assert tree(options.folder / "shares") == expected, "shares changed what was written"
    counts = recorded(options.folder / "shares")
    assert counts == recorded(options.folder / "whole"), "an image was lost, or labelled by two shares"
    report["recorded by shares"] = counts.total()

    runs.images = few / "images"
    runs.complete(few / "whole")
    report["crash points"] = crash_everywhere(runs, few, tree(few / "whole"))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
