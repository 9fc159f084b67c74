"""Annotate on a real Ray cluster of two nodes on this machine, one of which is killed midway.

`python tests/annotate_cluster.py FOLDER --images 2000` prints a JSON report. It fails if an image is lost, is recorded
twice, or gets other labels than `auto_annotate` writes.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

import annotate_kills
from annotate_kills import FORMATS, detector, make_images, recorded, tiny_sam, tree
from fastsam_core import auto_annotate
from fastsam_core.distributed import annotate_ray


class NotingDetector:
    """Detector for the generated images that records the id of its node as an empty file in `folder`."""

    fingerprint = "annotate_kills.detector"

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder = folder
        self.seconds = seconds

    def __call__(self, image: np.ndarray) -> Any:
        if ray.is_initialized():
            (self.folder / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(self.seconds)
        return detector(image)


def manifest_lines(folder: Path) -> int:
    path = folder / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_when(cluster: Cluster, node: Any, ready: Any) -> threading.Thread:
    """Start a thread that kills `node` without warning once `ready()` returns True."""

    def wait() -> None:
        while not ready():
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def to_parquet(images: Path, target: Path) -> None:
    """Write the images to parquet files, with the bytes in a struct as data set libraries store them."""
    import pyarrow
    import pyarrow.parquet

    target.mkdir()
    paths = sorted(images.rglob("*.png"))
    for part in range(2):
        rows = [(path.relative_to(images).as_posix(), {"bytes": path.read_bytes()}) for path in paths[part::2]]
        table = pyarrow.table({"name": [name for name, _ in rows], "image": [image for _, image in rows]})
        pyarrow.parquet.write_table(table, target / f"{part}.parquet", row_group_size=4)


def to_tar(images: Path, target: Path) -> None:
    """Write the images as a webdataset: one tar file per folder, with a text file next to every image."""
    target.mkdir()
    for folder in sorted(images.iterdir()):
        with tarfile.open(target / f"{folder.name}.tar", "w") as tar:
            for path in sorted(folder.iterdir()):
                for suffix, content in ((".png", path.read_bytes()), (".txt", b"a disc")):
                    member = tarfile.TarInfo(path.stem + suffix)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def labels(folder: Path) -> dict[str, str]:
    """Return a hash of each label file and of the COCO file, by relative path."""
    return {name: value for name, value in tree(folder).items() if name.endswith((".txt", ".json"))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.25, help="that the detector takes for an image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = options.folder
    images, nodes = root / "images", root / "nodes"
    nodes.mkdir(parents=True)
    make_images(images, options.images)
    sam = tiny_sam()
    shared: dict[str, Any] = {"sam_model": sam, "device": "cpu", "formats": FORMATS, "preview": 4}
    started = time.perf_counter()
    auto_annotate(images, detector, output_dir=root / "whole", **shared)
    report: dict[str, Any] = {"images": options.images, "seconds on one": round(time.perf_counter() - started, 1)}
    expected = tree(root / "whole")

    # Two CPUs per node: one for an actor, one for the tasks that read images.
    node = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    names = {node_info["NodeID"]: node_info["NodeManagerPort"] for node_info in ray.nodes()}
    assert len(names) == 2

    started = time.perf_counter()
    lost = root / "lost"
    noting = NotingDetector(nodes, options.seconds)

    def midway() -> bool:
        report["lines when a node was killed"] = manifest_lines(lost)
        return len(list(nodes.iterdir())) == 2 and manifest_lines(lost) > options.images // 4

    killer = kill_when(cluster, second, midway)
    annotate_ray(images, noting, output_dir=lost, images_per_task=4, actors=2, cpus_per_actor=2, **shared)
    killer.join(1)
    assert not killer.is_alive(), "the node lived to the end: nothing was lost"
    assert sum(node_info["Alive"] for node_info in ray.nodes()) == 1
    report["seconds with a node lost"] = round(time.perf_counter() - started, 1)
    assert tree(lost) == expected, "a lost node changed what was written"
    assert recorded(lost) == recorded(root / "whole"), "an image was lost, or came twice"

    # The cluster finishes a run that one process began; images from other containers get the same labels.
    few = root / "few"
    make_images(few / "images", 12)
    auto_annotate(few / "images", detector, output_dir=few / "whole", **shared)
    auto_annotate(few / "images", detector, output_dir=few / "out", shard="0/2", **shared)
    annotate_ray(few / "images", detector, output_dir=few / "out", actors=1, **shared)
    assert tree(few / "out") == tree(few / "whole"), "going on with a share changed what was written"
    assert recorded(few / "out") == recorded(few / "whole")
    to_parquet(few / "images", few / "parquet")
    annotate_ray(few / "parquet", detector, output_dir=few / "out-parquet", path_column="name", actors=1, **shared)
    assert labels(few / "out-parquet") == labels(few / "whole"), "parquet files give other labels"
    to_tar(few / "images", few / "tar")
    for run in range(2):  # the second run finds everything done
        annotate_ray(few / "tar", detector, output_dir=few / "out-tar", actors=1, **shared)
        assert labels(few / "out-tar") == labels(few / "whole"), f"tar files give other labels in run {run}"
    assert recorded(few / "out-tar").total() == 12
    ray.shutdown()
    cluster.shutdown()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    # Lets actors import the test modules as this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(annotate_kills.__file__).parent), *sys.path])
    main()
