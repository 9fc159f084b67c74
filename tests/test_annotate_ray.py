"""Tests annotation on a Ray cluster: its inputs and workers without Ray, and a real cluster that loses a node."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsam_core
from annotate_kills import detector, make_images, tiny_sam, tree
from fastsam_core import auto_annotate
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.annotate.manifest import Manifest
from fastsam_core.annotate.preview import Preview
from fastsam_core.distributed import annotate_ray, ray_run, worker
from fastsam_core.distributed.inputs import (
    EncodedImageReader,
    FolderInput,
    FolderReader,
    WebDatasetInput,
    infer_kind,
    sorted_hashes,
)
from fastsam_core.distributed.worker import Worker


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed: pip install 'ray[data]'")
def test_cluster_that_loses_a_node_writes_the_same(tmp_path: Path) -> None:
    """Two nodes, one killed midway; then a folder that another process began, parquet files and tar files."""
    script = Path(__file__).with_name("annotate_cluster.py")
    roots = [Path(fastsam_core.__file__).parents[1], script.parent, *map(Path, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["images"] // 4 < report["lines when a node was killed"] < report["images"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_annotate_ray_without_ray_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install 'fastsam_core\[ray\]'"):
        annotate_ray(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preview": -1}, "preview must be at least 0, not -1"),
        ({"preview": "all"}, "preview must be an integer, not 'all'"),
        ({"resume": "no"}, "resume must be True or False, not 'no'"),
        ({"actors": 0}, "actors must be at least 1, not 0"),
        ({"cpus_per_actor": 0.5}, "cpus_per_actor must be an integer, not 0.5"),
        ({"gpus_per_actor": -0.5}, "gpus_per_actor must be a finite number of at least 0, not -0.5"),
        ({"images_per_task": 0}, "images_per_task must be at least 1, not 0"),
        ({"kind": "zip"}, "kind='zip'; accepted: folder, parquet, webdataset"),
    ],
)
def test_invalid_options_are_refused_before_the_cluster_starts(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        annotate_ray(tmp_path, **options)


def test_kind_of_data_is_recognised(tmp_path: Path) -> None:
    assert infer_kind("s3://bucket/part-0.parquet") == infer_kind(["a.PARQUET", "b.parquet"]) == "parquet"
    assert infer_kind("shards/000.tar") == "webdataset"
    for name, kind in (("x.jpg", "folder"), ("x.parquet", "parquet"), ("x.tar", "webdataset")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / name).touch()
        assert infer_kind(folder) == kind


def test_home_folder_in_paths_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given: list[Any] = []
    monkeypatch.setattr(ray_run, "infer_kind", given.append)
    for data in ("~/a", Path("~/a"), ("~/0.tar", "s3://b/~.tar")):
        with pytest.raises(ValueError, match="kind=None"):  # before the cluster starts
            annotate_ray(data)
    assert given == [f"{tmp_path}/a", f"{tmp_path}/a", (f"{tmp_path}/0.tar", "s3://b/~.tar")]


def test_tar_files_of_equal_names_are_refused(tmp_path: Path) -> None:
    for name in ("train/000.tar", "val/000.TAR"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for data in (tmp_path, [tmp_path / "train", tmp_path / "val"], ["s3://a/000.tar", "s3://b/000.tar"]):
        with pytest.raises(ValueError, match=r"000\.(tar|TAR) would give their images the same names"):
            WebDatasetInput.open(data)
    assert WebDatasetInput.open(["s3://a/000.tar", "s3://b/001.tar"]).files is None


def test_images_in_memory_are_no_folder() -> None:
    with pytest.raises(ValueError, match="data must be a folder, a pattern or a list of image files, not "):
        FolderInput.open([np.zeros((8, 8, 3), np.uint8)], None, 1, 8)


def test_rows_become_batches_of_what_is_left() -> None:
    reader = EncodedImageReader("parquet", "name", "image", {}, sorted_hashes(["1.png", "3.png"]))
    columns = {"name": [f"{number}.png" for number in range(7)], "image": [b"broken"] * 7}
    assert reader.first_name(columns) == "0.png"
    batches = [[load().key for load in batch] for batch in reader.batches(columns, 2, [])]
    assert batches == [["0.png", "2.png"], ["4.png", "5.png"], ["6.png"]]
    folder = FolderReader("")
    assert folder.first_name({"keys": [[b"a.png", b"b.png"], [b"c.png"]]}) == "a.png"


@pytest.mark.parametrize(("cpus", "is_warned"), [(1, True), (2, False), (0, True)])
def test_warns_if_actors_leave_no_cpu_for_reading(cpus: int, is_warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    ray_run._warn_if_too_few_cpus(cpus, 1)
    assert ("waiting for more CPUs" in caplog.text) == is_warned


def worker_for(folder: Path, reader: Any, images: Path | None = None, keys: tuple[str, ...] = ()) -> Worker:
    folder.mkdir(exist_ok=True)
    if not (folder / "manifest.jsonl").exists():
        Manifest(folder, {}).close()
    config = AnnotateConfig(detector, tiny_sam(), "cpu", formats=("yolo", "coco"))
    return Worker(config, reader, str(folder), None if images is None else str(images), Preview(keys, 4), 1)


def test_worker_writes_what_one_process_does(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # the worker's; PyTorch's own sums may differ in the last bit with their number
    images = tmp_path / "images"
    make_images(images, 5)
    keys = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    whole = auto_annotate(images, detector, tiny_sam(), "cpu", formats=("yolo", "coco"), preview=4)
    rows = {
        "keys": [[os.fsencode(key)] for key in keys],
        "names": [[os.fsencode(key[:-4])] for key in keys],
        "done": [[key == keys[1]] for key in keys],
    }
    lines = worker_for(tmp_path / "out", FolderReader(str(images)), images, tuple(keys)).label(rows)
    assert sorted(line["key"] for line in lines) == [keys[0], *keys[2:]]
    written = {name: value for name, value in tree(tmp_path / "out").items() if not name.startswith(".partial")}
    expected = tree(whole)
    assert written == {name: expected[name] for name in written}
    labels = [name for name in written if name.endswith((".txt", ".part"))]
    assert len(labels) == 2 * 4 and any(name.startswith(".preview/") for name in written)


def test_rows_of_parquet_and_webdataset_are_labelled(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 4)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    contents = [path.read_bytes() for path in paths]
    reader = EncodedImageReader("parquet", "name", "image", {"b.png": "b-2"}, sorted_hashes(["c.png"]))
    rows = {
        "name": ["/a.png", "b.png", "c.png", "d.png"],
        "image": [contents[0], {"bytes": contents[1]}, contents[2], b"broken"],
    }
    out = tmp_path / "out"
    lines = {line["key"]: line for line in worker_for(out, reader).label(rows)}
    assert sorted(lines) == ["a.png", "b.png", "d.png"]
    assert [lines[key]["status"] for key in sorted(lines)] == ["ok", "ok", "error"]
    assert sorted(path.name for path in out.glob("*.txt")) == ["a.txt", "b-2.txt"]

    web = EncodedImageReader("webdataset", "__key__", "", {}, sorted_hashes([]))
    samples = {
        "__key__": ["001", "002", "003", "004", "005"],
        "__url__": ["/data/shard-07.tar"] * 5,
        "jpg": [None, contents[1], None, None, None],
        "png": [contents[0], contents[1], None, None, None],
        "txt": [b"one", b"two", b"three", b"four", b"five"],
        "v2.PNG": [contents[2], None, None, contents[2], None],
        "JPG": [None, None, None, None, contents[3]],
    }
    names = ["001.png", "002.jpg", "004.v2.PNG", "005.JPG"]
    keys = [line["key"] for line in worker_for(out, web).label(samples)]  # in the order of completion
    assert sorted(keys) == [f"shard-07/{name}" for name in names]
    assert sorted(path.name for path in (out / "shard-07").iterdir()) == ["001.txt", "002.txt", "004.v2.txt", "005.txt"]


def test_images_that_keep_killing_processes_raise(tmp_path: Path) -> None:
    """A worker gives up on images that killed several processes, because Ray restarts its actors without limit."""
    make_images(tmp_path / "images", 1)
    (path,) = (tmp_path / "images").rglob("*.png")
    rows = {"name": ["a.png"], "image": [path.read_bytes()]}
    reader = EncodedImageReader("parquet", "name", "image", {}, sorted_hashes([]))
    for _ in range(worker._MAX_ATTEMPTS):
        child = os.fork()
        if child == 0:
            try:
                made = worker_for(tmp_path / "out", reader)
                made._labeller.run = lambda *_: os._exit(9)  # type: ignore[method-assign]
                made.label(rows)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    last = worker_for(tmp_path / "out", reader)
    with pytest.raises(RuntimeError, match=r"5 processes in a row died .* from a\.png on"):
        last.label(rows)
    assert [line["status"] for line in last.label(rows)] == ["ok"], "the count restarts after the error"


def test_output_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match="shared storage"):
        Worker(AnnotateConfig(None), FolderReader("/"), str(tmp_path / "out"), None, Preview((), 0), 1)
