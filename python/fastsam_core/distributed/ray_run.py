"""`annotate_ray`: annotation on a Ray cluster."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from .._log import logger
from ..annotate.annotator import Annotator
from ..annotate.files import LabelFiles
from ..annotate.job import Job
from ..annotate.preview import Preview
from ..annotate.run import default_folder, identity, keep_apart
from ..annotate.settings import AnnotateConfig
from ..annotate.summary import summary
from ..annotate.worklist import is_video
from .inputs import KINDS, FolderInput, ParquetInput, WebInput, kind_of
from .worker import OWNER, Worker


def annotate_ray(
    data: Any,
    det_model: Any = "yolov8x.pt",
    sam_model: Any = "sam_b.pt",
    device: Any = "",
    output_dir: str | os.PathLike[str] | None = None,
    *,
    kind: str | None = None,
    path_column: str = "path",
    image_column: str = "image",
    actors: int | None = None,
    cpus_per_actor: int = 1,
    gpus_per_actor: float | None = None,
    images_per_task: int = 128,
    resume: bool = True,
    preview: int = 24,
    **options: Any,
) -> Path:
    """Label images on all nodes of a Ray cluster, to the same bytes as `auto_annotate`, and return the labels' folder.

    data: a folder of images (with its sub-folders), a pattern or a list of files; parquet files, or a folder of them;
        webdataset tar files, or a folder of them. Parquet and tar files may be anything that Ray Data reads, such as
        s3:// addresses; folders of images must have the same path on all nodes.
    det_model, sam_model, device, and `conf`, `iou`, `imgsz`, `max_det`, `classes`, `texts`, `formats`, `min_area`,
        `batch` and `workers` among the options: see `auto_annotate`. Models are loaded once per actor.
    output_dir: on storage that all nodes share, at the same path.
    kind: "folder", "parquet" or "webdataset"; by default judged by names.
    path_column, image_column: columns of parquet files with each image's name, which must be unique, and with its
        encoded bytes or a struct that has them as `bytes`. In a webdataset an image is called
        `<tar file>/<sample>.<suffix>`.
    actors: the most processes; by default one per GPU, or without GPUs as many as the CPUs allow. cpus_per_actor: CPUs
        that each reserves, which is also its number of threads. gpus_per_actor: default 1 if the cluster has GPUs.
    images_per_task: images of a folder that an actor is given at a time. They are labelled again if the actor is lost.
        With other data, the size of a task is what Ray reads at a time.
    resume, preview: as for `auto_annotate`. `auto_annotate` and `annotate_ray` can each continue a folder of images
        that the other began. No preview is made of a webdataset.

    Images stream through the actors. Only this process writes the manifest, one line per image once its files are in
    place, and so it must stay alive. Nodes may come and go: tasks of a lost node are run again by others, to the same
    bytes. If the process that labels the same images is lost five times in a row, the run ends with an error that names
    the first of them.

    ImportError without Ray; RuntimeError if images come back without a label; other errors as `auto_annotate`.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"annotate_ray() needs Ray Data ({error}): pip install 'fastsam_core[ray]'") from error
    config = AnnotateConfig(det_model, sam_model, device, **options)
    kind = kind_of(data) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; accepted: {', '.join(KINDS)}")
    if not ray.is_initialized():
        ray.init()
    output_dir = os.path.expanduser(output_dir) if output_dir else None
    given: FolderInput | ParquetInput | WebInput
    if kind == "folder":
        given = FolderInput.open(data, output_dir, config.batch, images_per_task)
    elif kind == "parquet":
        given = ParquetInput.open(ray, data, path_column, image_column)
    else:
        given = WebInput.open(data)
    folder = Path(output_dir or default_folder(data)).absolute()
    images = None
    if isinstance(given, FolderInput):
        keep_apart(given.files, folder, config.formats, preview > 0)
        images = given.files.root
    keys = [] if given.files is None else [key for key in given.files.keys if not is_video(key)]
    sheet = Preview(keys, preview)
    # Settings are read on the CPU, since labels must not depend on the device of this process.
    settings = {
        "data": identity(given.files if images else None, data, folder),
        **Annotator(config.replaced(device="cpu")).settings(),
    }
    labels = LabelFiles(folder, config.formats, "manifest")
    started = time.perf_counter()
    with Job(labels, settings, files=given.files, preview=sheet, resume=resume) as job:
        _clear(labels)
        dataset = given.dataset(ray, job.done)
        if dataset is not None:
            if kind != "folder":
                _warn_of_waiting(ray.cluster_resources().get("CPU", 0), cpus_per_actor)
            gpus = ray.cluster_resources().get("GPU", 0) if gpus_per_actor is None else gpus_per_actor
            per_actor = min(1, gpus) if gpus_per_actor is None else gpus
            made = dataset.map_batches(
                Worker,
                fn_constructor_args=(config, given.reader(job.done), str(folder), images, sheet, cpus_per_actor),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=actors or _most_actors(ray, cpus_per_actor, per_actor)
                ),
                num_cpus=cpus_per_actor,
                num_gpus=per_actor or None,
            )
            _record(made, job)
        _clear(labels)
        spent = time.perf_counter() - started
        lost = [key for key in keys if key not in job.history.finished and key not in job.history.failed]
        if lost:
            raise RuntimeError(f"no label was returned for {len(lost)} of the images, such as {lost[0]}; run again")
        job.finish()
    logger.info("%s", summary(job.history, str(folder), job.now, spent))
    return folder


def _record(made: Any, job: Job) -> None:
    from tqdm.auto import tqdm

    with tqdm(
        total=job.total(), initial=len(job.done - job.history.videos), desc="annotate_ray", unit="image", disable=None
    ) as bar:
        for rows in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for line in rows["line"].to_pylist():
                job.record(json.loads(line))
                bar.update()


def _most_actors(ray: Any, cpus: int, gpus: float) -> int:
    resources = ray.cluster_resources()
    if gpus:
        return max(1, math.floor(resources.get("GPU", 0) / gpus))
    return max(1, math.floor(resources.get("CPU", 1) / cpus))


def _warn_of_waiting(cpus: float, cpus_per_actor: int) -> None:
    """Warn if an actor leaves no CPU for the separate tasks in which Ray reads parquet and tar files."""
    if cpus < cpus_per_actor + 1:
        logger.warning(
            "the cluster has %g CPUs, but an actor needs %d and reading needs 1 more: waiting for more CPUs",
            cpus,
            cpus_per_actor,
        )


def _clear(labels: LabelFiles) -> None:
    """Remove unfinished files of actors, which a lost node leaves behind."""
    for stale in labels.scratch.parent.glob(f"{OWNER}*"):
        shutil.rmtree(stale, ignore_errors=True)
