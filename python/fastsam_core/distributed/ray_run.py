"""`annotate_ray`: annotation on a Ray cluster."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from .. import option_parsers as parse
from .._files import check_writable
from .._log import logger
from .._progress import progress_bar
from ..annotate.annotator import Annotator
from ..annotate.file_list import is_video
from ..annotate.files import LabelFiles
from ..annotate.job import Job
from ..annotate.preview import MAX_COUNT, Preview
from ..annotate.run import data_identity, default_output_dir, parse_output_dir, protect_images
from ..annotate.settings import AnnotateConfig
from ..annotate.summary import summary
from .inputs import KINDS, FolderInput, ParquetInput, WebDatasetInput, expand_home, infer_kind
from .worker import SCRATCH_PREFIX, Worker


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

    TypeError and ValueError for invalid options; ImportError without Ray; RuntimeError if images come back without a
    label; other errors as `auto_annotate`.
    """
    config = AnnotateConfig(det_model, sam_model, device, **options)
    preview, resume = parse.integer(0, MAX_COUNT)("preview", preview), parse.boolean("resume", resume)
    actors = None if actors is None else parse.integer(1)("actors", actors)
    cpus_per_actor = parse.integer(1)("cpus_per_actor", cpus_per_actor)
    gpus_per_actor = None if gpus_per_actor is None else parse.number(0)("gpus_per_actor", gpus_per_actor)
    images_per_task = parse.integer(1)("images_per_task", images_per_task)
    data = expand_home(data)
    kind = infer_kind(data) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; accepted: {', '.join(KINDS)}")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"annotate_ray() needs Ray Data ({error}): pip install 'fastsam_core[ray]'") from error
    if not ray.is_initialized():
        ray.init()
    output_dir = parse_output_dir(output_dir)
    ray_input: FolderInput | ParquetInput | WebDatasetInput
    if kind == "folder":
        ray_input = FolderInput.open(data, output_dir, config.batch, images_per_task)
    elif kind == "parquet":
        ray_input = ParquetInput.open(ray, data, path_column, image_column)
    else:
        ray_input = WebDatasetInput.open(data)
    folder = Path(output_dir or default_output_dir(data)).absolute()
    image_root = None
    if isinstance(ray_input, FolderInput):
        protect_images(ray_input.files, folder, config.formats, preview > 0)
        image_root = ray_input.files.root
    check_writable(folder)
    keys = [] if ray_input.files is None else [key for key in ray_input.files.keys if not is_video(key)]
    contact_sheet = Preview(keys, preview)
    # Settings are read on the CPU, since labels must not depend on the device of this process.
    settings = {
        "data": data_identity(ray_input.files if image_root else None, data, folder),
        **Annotator(config.updated(device="cpu")).settings(),
    }
    labels = LabelFiles(folder, config.formats, "manifest")
    started = time.perf_counter()
    with Job(labels, settings, files=ray_input.files, preview=contact_sheet, resume=resume) as job:
        _remove_stale_files(labels)
        dataset = ray_input.dataset(ray, job.done)
        if dataset is not None:
            if kind != "folder":
                _warn_if_too_few_cpus(ray.cluster_resources().get("CPU", 0), cpus_per_actor)
            gpus = ray.cluster_resources().get("GPU", 0) if gpus_per_actor is None else gpus_per_actor
            per_actor = min(1, gpus) if gpus_per_actor is None else gpus
            line_dataset = dataset.map_batches(
                Worker,
                fn_constructor_args=(
                    config,
                    ray_input.reader(job.done),
                    str(folder),
                    image_root,
                    contact_sheet,
                    cpus_per_actor,
                ),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=actors or _max_actors(ray, cpus_per_actor, per_actor)
                ),
                num_cpus=cpus_per_actor,
                num_gpus=per_actor or None,
            )
            _record_lines(line_dataset, job)
        _remove_stale_files(labels)
        seconds = time.perf_counter() - started
        unlabelled = [key for key in keys if key not in job.history.finished and key not in job.history.failed]
        if unlabelled:
            raise RuntimeError(
                f"no label was returned for {len(unlabelled)} of the images, such as {unlabelled[0]}; run again"
            )
        job.finish()
    logger.info("%s", summary(job.history, str(folder), job.num_labelled, seconds))
    return folder


def _record_lines(line_dataset: Any, job: Job) -> None:
    total, initial = job.count_images(), len(job.done - job.history.videos)
    with progress_bar(total=total, initial=initial, desc="annotate_ray", unit="image") as bar:
        for rows in line_dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for line in rows["line"].to_pylist():
                job.record(json.loads(line))
                bar.update()


def _max_actors(ray: Any, cpus_per_actor: int, gpus_per_actor: float) -> int:
    resources = ray.cluster_resources()
    if gpus_per_actor:
        return max(1, math.floor(resources.get("GPU", 0) / gpus_per_actor))
    return max(1, math.floor(resources.get("CPU", 1) / cpus_per_actor))


def _warn_if_too_few_cpus(num_cpus: float, cpus_per_actor: int) -> None:
    """Warn if an actor leaves no CPU for the separate tasks in which Ray reads parquet and tar files."""
    if num_cpus < cpus_per_actor + 1:
        logger.warning(
            "the cluster has %g CPUs, but an actor needs %d and reading needs 1 more: waiting for more CPUs",
            num_cpus,
            cpus_per_actor,
        )


def _remove_stale_files(labels: LabelFiles) -> None:
    """Remove unfinished files of actors, which a lost node leaves behind."""
    for stale in labels.scratch.parent.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)
