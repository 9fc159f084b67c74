"""`auto_annotate`: writes label files for a set of images."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import option_parsers as parse
from .._files import check_writable, relative_posix
from .._log import format_count, hide_passwords, logger
from ..sources import load_sources
from .annotator import Annotator
from .earlier_runs import find_earlier_output
from .file_list import FileList, find_renames, is_video, list_files
from .files import LAYOUTS, LabelFiles
from .job import Job
from .manifest import manifest_name
from .preview import MAX_COUNT, PREVIEW_FILE, Preview
from .settings import ON_ERROR, AnnotateConfig
from .shards import UNSHARDED, local_rank, parse_shard
from .summary import summary


def auto_annotate(
    data: Any,
    det_model: Any = "yolov8x.pt",
    sam_model: Any = "sam_b.pt",
    device: Any = "",
    output_dir: str | os.PathLike[str] | None = None,
    *,
    conf: float = 0.25,
    iou: float = 0.45,
    imgsz: int | Sequence[int] = 640,
    max_det: int = 300,
    classes: Sequence[int] | None = None,
    texts: Sequence[str] | None = None,
    formats: Sequence[str] = ("yolo",),
    min_area: float = 0,
    batch: int = 1,
    workers: int = 2,
    resume: bool = True,
    shard: str | tuple[int, int] | None = None,
    on_error: str = "skip",
    preview: int = 24,
) -> Path:
    """Write label files for images, with boxes from a detector and masks from SAM, and return their folder.

    data: a folder of images, searched with its sub-folders, or any other source that `SAM` takes. Label maps and
        contact sheets that earlier runs wrote there are left out.
    det_model: an official name ("yolov8x.pt", "yolo11x.pt", "yolo26x.pt" ...), another YOLO checkpoint, a `YOLO`, or a
        callable `detector(image) -> boxes, scores, class ids, names`, called with each image as (H, W, 3) uint8 BGR:
        see `detect.Detector`. With det_model=None everything is segmented, as class 0.
    sam_model: a checkpoint or `SamModel`, or a `SAM` or `Predictor`, whose own options (`conf` and so on) then apply.
    device: of both models; "" is the GPU if there is one.
    output_dir: default `<data's parent>/<data's stem>_auto_annotate_labels`.
    conf, iou, imgsz, max_det, classes: of the detector, see `detect.load_detector`. Only conf, max_det and classes
        apply to the boxes of a callable.
    texts: descriptions of what to find, for an open-vocabulary detector (`pip install 'fastsam_core[text]'`); class ids
        are positions in this list. det_model may then name such a detector, see `detect.load_text_detector`.
    formats: any of yolo (`<name>.txt`), coco (`coco.json`), sa1b (`sa1b/<name>.json`), labelme (`labelme/<name>.json`)
        and png (`png/<name>.png`). Names mirror the images' relative paths. For tools that read only polygons from COCO
        files, such as SAHI and Label Studio, convert coco.json by `formats.convert_labels` with `polygons=True`.
    min_area: drop masks of fewer pixels.
    batch: number of images encoded together. workers: number of threads that load, and of threads that write.
    resume: continue where an earlier run into this folder stopped; False starts afresh.
    shard: "i/n" labels the i-th of n shards, counted from 0; None takes the shard that torchrun or srun assign to this
        process, or all images without them.
    on_error: "skip" records images that can't be read or labelled and continues; "raise" stops at the first.
    preview: draw the masks of this many image files, 10,000 at most, into `preview.jpg`; 0 for none.

    A mask takes its class from the box that prompted it. Masks whose predicted IoU is at most SAM's `conf` (0.25 for
    the official models) are left out, which does not shift the classes of the others. Every image gets a label file,
    an empty one if nothing was found. Images that differ only in suffix get `<name>-2` and so on, frames of a video
    `<name>_<frame>`.

    When a run resumes, images that aren't files (arrays, images from the web) are recognised by their pixels, files by
    their names alone: if a file was replaced, remove its label file to have it labelled again.

    Files are written whole or not at all. `manifest.jsonl` records what is done. All other files depend on neither time
    nor order, so a run that was killed and started again gives the same bytes.

    Raises ValueError for invalid options, and for a folder with labels of other models or settings; FileNotFoundError
    for images that don't exist; OSError if files can't be written; and the first error of detector or model if they
    fail on ten images in a row.
    """
    config = AnnotateConfig(
        det_model, sam_model, device, conf, iou, imgsz, max_det, classes, texts, formats, min_area, batch, workers
    )
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r}; accepted: {', '.join(ON_ERROR)}")
    preview, resume = parse.integer(0, MAX_COUNT)("preview", preview), parse.boolean("resume", resume)
    own_shard = parse_shard(shard)
    if own_shard != UNSHARDED:
        logger.info("labelling shard %s of the images", own_shard)
    if config.device == "":
        config.device = local_gpu()
    output_dir = parse_output_dir(output_dir)
    files = list_files(data, output_dir)
    source = load_sources(data) if files is None else None
    folder = Path(output_dir) if output_dir else default_output_dir(data)
    if files is not None:
        protect_images(files, folder, config.formats, preview > 0)
    check_writable(folder)
    contact_sheet = Preview([] if files is None else [key for key in files.keys if not is_video(key)], preview)
    annotator = Annotator(config)
    settings = {"data": data_identity(files, data, folder), **annotator.settings()}
    labels = LabelFiles(folder, config.formats, owner=Path(manifest_name(own_shard)).stem)
    started = time.perf_counter()
    with Job(labels, settings, own_shard, files=files, preview=contact_sheet, resume=resume) as job:
        try:
            job.run(annotator, source, raise_errors=on_error == "raise")
        finally:
            if source is not None:
                source.close()
        if annotator.fault is not None and not job.history.finished:
            raise annotator.fault
        seconds = time.perf_counter() - started
        job.finish()
    logger.info("%s", summary(job.history, str(folder), job.num_labelled, seconds))
    return folder


def parse_output_dir(output_dir: Any) -> str | None:
    """Return the path, with `~` replaced, or None for None and an empty one. TypeError for anything else."""
    return None if output_dir in (None, "") else os.path.expanduser(parse.string("output_dir", output_dir))


def default_output_dir(data: Any) -> Path:
    """Return the default folder of labels, beside `data`. ValueError if `data` isn't one existing folder or file."""
    path = Path(os.path.expanduser(os.fspath(data))) if isinstance(data, (str, os.PathLike)) else None
    if path is None or not path.exists():
        given = hide_passwords(repr(data))
        raise ValueError(f"output_dir is needed unless data is one existing folder or file; got data={given}"[:300])
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.stem}_auto_annotate_labels"


def local_gpu() -> str:
    """Return the GPU for this process if a launcher runs several on a machine with several GPUs, otherwise ""."""
    rank, count = local_rank(os.environ), torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{rank % count}" if rank is not None and count > 1 else ""


def protect_images(files: FileList, folder: Path, formats: Sequence[str], with_preview: bool) -> None:
    """Make sure that output files can't overwrite images or be taken for images by a later run.

    Label maps and contact sheets of earlier runs are removed from `files`, unless it holds nothing else. ValueError for
    png label maps in a folder of images, and for an image with the contact sheet's path.
    """
    earlier = find_earlier_output(files)
    if 0 < len(earlier) < len(files.keys):
        count = format_count(len(earlier), "label map or contact sheet", "label maps and contact sheets")
        logger.info("left out %s of earlier runs, such as %s", count, min(earlier))
        files.keys = [key for key in files.keys if key not in earlier]
        files.renamed = find_renames(files.keys)
    root, target = Path(files.root).resolve(), folder.resolve()
    maps = target / LAYOUTS["png"].folder
    if "png" in formats and (target == root or root.is_relative_to(maps) or _holds_images(files, root, maps)):
        holder = folder if target == root else folder / LAYOUTS["png"].folder
        raise ValueError(f"png label maps can't go into {holder}, the folder of the images; give another output_dir")
    sheet = relative_posix(root, target / PREVIEW_FILE)
    if with_preview and sheet in files.keys:
        raise ValueError(
            f"{folder / PREVIEW_FILE} is an image that the contact sheet would overwrite; give another output_dir, or "
            "preview=0"
        )


def _holds_images(files: FileList, root: Path, folder: Path) -> bool:
    """Return whether some of the files, but not all, lie in `folder` or below it. Both paths must be resolved."""
    prefix = f"{relative_posix(root, folder)}/"
    return any(key.startswith(prefix) for key in files.keys)


def data_identity(files: FileList | None, data: Any, folder: Path) -> str:
    """Return what distinguishes these images from others of the same names: their folder, relative to the labels'.

    It stays the same if both folders are moved together. For data that isn't files: the text given, without passwords,
    or its type's name.
    """
    if files is None:
        return hide_passwords(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else type(data).__name__
    return relative_posix(folder, files.root)
