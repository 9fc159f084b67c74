"""Tests of runs that share a folder: shards, their manifests, and runs that start afresh beside others."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import pytest

from annotate_kills import SAME, CountingDetector, detector, recorded, tree
from fastsam_core import SAM, auto_annotate
from fastsam_core.annotate.manifest import Manifest
from fastsam_core.annotate.shards import Shard


def test_resume_false_removes_manifests_of_shards(sam: SAM, images: Path) -> None:
    for shard in range(2):
        target = auto_annotate(images, detector, sam, shard=f"{shard}/2")
    before = tree(target)
    assert len(list(target.glob("manifest-*.jsonl"))) == 2
    auto_annotate(images, detector, sam, resume=False)
    assert [path.name for path in target.glob("manifest*.jsonl")] == ["manifest.jsonl"]
    assert tree(target) == before


def test_shards_with_resume_false_remove_other_runs(sam: SAM, images: Path) -> None:
    target = auto_annotate(images, detector, sam)
    auto_annotate(images, detector, sam, shard="1/3", resume=False)
    expected = tree(auto_annotate(images, detector, sam, conf=0.55, output_dir=images.parent / "whole"))
    for shard in range(2):
        auto_annotate(images, detector, sam, conf=0.55, shard=f"{shard}/2", resume=False)
    assert sorted(path.name for path in target.glob("manifest*")) == ["manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"]
    assert tree(target) == expected


def test_resume_false_is_refused_while_another_process_writes(sam: SAM, images: Path) -> None:
    """resume=False must not delete what another process is writing."""
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
        for shard in ("0/1", "1/2"):  # other settings would delete the manifest of the run that is still going on
            with pytest.raises(ValueError, match="another process is writing"):
                auto_annotate(images, detector, sam, conf=0.3, shard=shard, resume=False)
        assert other.path.exists()
    finally:
        other.close()
    auto_annotate(images, detector, sam, conf=0.3, shard="1/2", resume=False)  # the refused runs hold no lock
    assert not other.path.exists()


def test_last_shard_writes_files_that_cover_all_images(
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
    # A run without shards finds everything done.
    counting = CountingDetector(SAME)
    auto_annotate(images, counting, sam, **options)
    assert counting.calls == 0


def test_shards_of_arrays_need_a_final_run_for_all(
    sam: SAM, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = [cv2.imread(str(path)) for path in sorted(images.rglob("*.png"))]
    options: dict[str, Any] = {"formats": ["yolo", "coco"], "output_dir": tmp_path / "out"}
    with caplog.at_level(logging.INFO, logger="fastsam_core"):
        for shard in ("0/2", "1/2"):
            auto_annotate(arrays, detector, sam, shard=shard, **options)
    assert caplog.text.count('run with shard="0/1" to write the files that cover all images') == 2
    assert not (tmp_path / "out" / "coco.json").exists()
    assert recorded(tmp_path / "out").total() == len(arrays), "each shard labels only its own images"
    counting = CountingDetector(SAME)
    auto_annotate(arrays, counting, sam, shard="0/1", **options)
    assert counting.calls == 0
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == len(arrays)


def test_shard_is_read_from_environment(sam: SAM, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        target = auto_annotate(images, detector, sam)
    assert recorded(target).total() == 12
    assert sorted(path.name for path in target.glob("manifest*")) == ["manifest-0-of-2.jsonl", "manifest-1-of-2.jsonl"]
