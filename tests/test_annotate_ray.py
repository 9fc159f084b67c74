"""Tests annotation on a Ray cluster: its workers and `annotate_ray` without Ray, a real cluster that loses a node."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastsam_core
from annotate_kills import detector, make_images, tiny_sam, tree
from fastsam_core import auto_annotate
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.annotate.manifest import Manifest
from fastsam_core.annotate.preview import Preview
from fastsam_core.distributed import annotate_ray, ray_run, worker
from fastsam_core.distributed.inputs import EncodedImageReader, FolderReader, sorted_hashes
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
        ({"preview": 10_001}, "preview must be at most 10000, not 10001"),
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


def test_home_folder_in_paths_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given: list[Any] = []
    monkeypatch.setattr(ray_run, "infer_kind", given.append)
    for data in ("~/a", Path("~/a"), ("~/0.tar", "s3://b/~.tar")):
        with pytest.raises(ValueError, match="kind=None"):  # before the cluster starts
            annotate_ray(data)
    assert given == [f"{tmp_path}/a", f"{tmp_path}/a", (f"{tmp_path}/0.tar", "s3://b/~.tar")]


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


class Rows(dict):  # type: ignore[type-arg]
    """Stand-in for a pyarrow Table."""

    num_rows = property(lambda self: max(map(len, self.values()), default=0))
    column_names = property(list)

    def __getitem__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(to_pylist=lambda: super(Rows, self).__getitem__(name))


@pytest.fixture
def arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(table=Rows, string=lambda: None, array=lambda values, kind: list(values))
    monkeypatch.setitem(sys.modules, "pyarrow", made)


class Dataset:
    """Stand-in for a Ray dataset that runs one worker here. `options` are those of each call of `map_batches`."""

    options: list[dict[str, Any]] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, tables: list[Rows]) -> None:
        self.tables = tables

    def map_batches(self, made: Any, fn_constructor_args: tuple[Any, ...], **options: Any) -> Dataset:
        self.options.append(options)
        worker = made(*fn_constructor_args)
        return Dataset([worker(table) for table in self.tables])

    def iter_batches(self, **options: Any) -> Any:
        return iter(self.tables)


@pytest.fixture
def cluster(arrow: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Ray stands in with one worker in this process. Returns the resources of its cluster."""
    resources = {"CPU": 5.0}
    data = SimpleNamespace(from_arrow=Dataset, ActorPoolStrategy=lambda **sizes: sizes)
    ray = SimpleNamespace(data=data, is_initialized=lambda: True, cluster_resources=lambda: resources)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.setattr(Dataset, "options", [])
    return resources


def test_annotate_ray_writes_what_auto_annotate_does(tmp_path: Path, cluster: dict[str, float]) -> None:
    torch.set_num_threads(1)
    images = tmp_path / "images"
    make_images(images, 5)
    options: dict[str, Any] = {"formats": ("yolo", "coco"), "batch": 2}
    whole = auto_annotate(images, detector, tiny_sam(), "cpu", tmp_path / "whole", **options)
    for _ in range(2):
        out = annotate_ray(images, detector, tiny_sam(), "cpu", tmp_path / "out", images_per_task=2, **options)
        assert out == tmp_path / "out" and tree(out) == tree(whole) and not (out / ".partial").exists()
    assert len(Dataset.options) == 1, "the second run finds everything done"
    (out / "a" / "00000.txt").unlink()
    auto_annotate(images, detector, tiny_sam(), "cpu", out, **options)
    assert tree(out) == tree(whole), "each continues what the other began"


@pytest.mark.parametrize(
    ("resources", "options", "expected"),
    [
        ({"CPU": 5.0}, {}, (5, 1, None)),
        ({"CPU": 5.0}, {"cpus_per_actor": 2}, (2, 2, None)),
        ({"CPU": 1.0}, {"cpus_per_actor": 4}, (1, 4, None)),
        ({"CPU": 5.0}, {"actors": 3}, (3, 1, None)),
        ({"CPU": 16.0, "GPU": 4.0}, {}, (4, 1, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus_per_actor": 0.5}, (8, 1, 0.5)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus_per_actor": 2}, (2, 1, 2)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpus_per_actor": 0}, (16, 1, None)),
    ],
)
def test_actors_share_the_resources_of_the_cluster(
    tmp_path: Path, cluster: dict[str, float], resources: Any, options: Any, expected: tuple[int, int, float | None]
) -> None:
    cluster.clear()
    cluster.update(resources)
    make_images(tmp_path / "images", 1)
    annotate_ray(tmp_path / "images", detector, tiny_sam(), "cpu", **options)
    (given,) = Dataset.options
    assert given["compute"] == {"min_size": 1, "max_size": expected[0]}
    assert (given["num_cpus"], given["num_gpus"]) == expected[1:]


@pytest.mark.parametrize("data", ["s3://bucket/x.parquet", "s3://bucket/x.tar"])
def test_encoded_images_are_labelled(tmp_path: Path, cluster: dict[str, float], data: str) -> None:
    make_images(tmp_path / "images", 2)
    contents = [path.read_bytes() for path in sorted((tmp_path / "images").rglob("*.png"))]
    names = ["one", "two"]
    parquet = Rows(name=[f"x/{name}.png" for name in names], pixels=contents)
    parquet_data = SimpleNamespace(
        schema=lambda: SimpleNamespace(names=["name", "pixels"]), iter_batches=lambda **options: [dict(parquet)]
    )
    sys.modules["ray.data"].read_parquet = lambda data, columns=None: (
        Dataset([parquet]) if columns == ["name", "pixels"] else parquet_data
    )
    samples = Rows(__key__=names, __url__=[data] * 2, png=contents)
    sys.modules["ray.data"].read_webdataset = lambda data, decoder, suffixes: Dataset([samples])
    options: dict[str, Any] = {"path_column": "name", "image_column": "pixels", "output_dir": tmp_path / "out"}
    for _ in range(2):
        annotate_ray(data, detector, tiny_sam(), "cpu", **options)
        lines = [json.loads(text) for text in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
        assert lines[0]["settings"]["data"] == data
        labelled = sorted((line["key"], line["status"]) for line in lines[1:])  # lines come as images are done
        assert labelled == [("x/one.png", "ok"), ("x/two.png", "ok")]
    assert sorted(path.name for path in (tmp_path / "out" / "x").iterdir()) == ["one.txt", "two.txt"]
    assert (tmp_path / "out" / "preview.jpg").exists() == data.endswith(".parquet")


def test_images_without_a_label_are_an_error(
    tmp_path: Path, cluster: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images", 3)
    monkeypatch.setattr(Dataset, "iter_batches", lambda self, **options: iter(self.tables[1:]))
    with pytest.raises(RuntimeError, match=r"no label was returned for 1 of the images, such as a/00000\.png"):
        annotate_ray(tmp_path / "images", detector, tiny_sam(), "cpu", images_per_task=1)


def test_worker_turns_tables_of_rows_into_tables_of_lines(tmp_path: Path, arrow: None) -> None:
    make_images(tmp_path / "images", 1)
    made = worker_for(tmp_path / "out", FolderReader(str(tmp_path / "images")))
    assert made(Rows()) == made(Rows(keys=[], names=[], done=[])) == {"line": []}
    (line,) = made(Rows(keys=[[b"a/00000.png"]], names=[[b"a/00000"]], done=[[False]]))["line"].to_pylist()
    assert json.loads(line)["key"] == "a/00000.png" and (tmp_path / "out" / "a" / "00000.txt").exists()


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


def test_tasks_that_begin_with_samples_of_one_name_are_counted_apart(tmp_path: Path) -> None:
    """Tar files may number their samples alike, and many of them are labelled at a time."""
    reader = EncodedImageReader("webdataset", "__key__", "", {}, sorted_hashes([]))
    made = worker_for(tmp_path / "out", reader)
    with ExitStack() as attempts:
        for number in range(worker._MAX_ATTEMPTS + 1):
            name = reader.first_name({"__key__": ["000", "001"], "__url__": [f"shard-{number}.tar"] * 2})
            assert name == f"shard-{number}.tar/000"
            attempts.enter_context(made._count_attempts(name))


def test_output_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileNotFoundError, match="shared storage"):
        Worker(AnnotateConfig(None), FolderReader("/"), str(tmp_path / "out"), None, Preview((), 0), 1)
