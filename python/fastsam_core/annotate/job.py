"""`Job`, one run over a set of images, which resumes earlier runs and records what is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from .._log import logger
from .._progress import progress_bar
from ..sources import Source
from ..sources.video import expected_frame_count
from .annotator import Annotator
from .batch_labeller import BatchLabeller, ManifestLine
from .dataset_files import write_dataset_files
from .file_list import FileList, file_key, is_video
from .files import LabelFiles
from .loading import ImageLoader, batches_of_files, batches_of_source, finished_label_names
from .manifest import History, Manifest, is_started, read_history, remove_other_manifests
from .preview import Preview
from .rendering import Renderer
from .shards import UNSHARDED, Shard


class Job:
    """One run over the images of a shard: it labels, writes and records those that aren't done yet.

    Creating a job locks the shard's manifest; use it as a context manager, which releases it. `history` is what the
    manifests record, earlier runs included. `done` holds the keys in it whose label files still exist. `num_labelled`
    is the number of images that this run has labelled.

    ValueError if the folder holds labels that no run recorded or that were made with other settings, or if another
    process is writing the manifest.
    """

    def __init__(
        self,
        labels: LabelFiles,
        settings: Mapping[str, Any],
        shard: Shard = UNSHARDED,
        *,
        files: FileList | None,
        preview: Preview,
        resume: bool = True,
    ) -> None:
        self.labels = labels
        self.preview = preview
        self._settings = settings
        self._shard = shard
        self._files = files
        self._lock = threading.Lock()
        self._finished_videos: list[str] = []
        self._seen_keys: set[str] = set()
        self.num_labelled = 0
        labels.folder.mkdir(parents=True, exist_ok=True)
        if resume and not is_started(labels.folder):
            self._reject_unrecorded_labels()
        self.history = (
            read_history(labels.folder, settings, lambda key: file_key(key) in shard) if resume else History()
        )
        self.done = self._find_done()
        # Forget images whose files were removed: their next line, also one of an error, replaces the former one.
        if missing := (self.history.finished | self.history.videos) - self.done:
            self.history = read_history(
                labels.folder, settings, lambda key: file_key(key) in shard and key not in missing
            )
        self._manifest = Manifest(labels.folder, settings, shard, resume)
        if not resume:
            try:
                remove_other_manifests(self._manifest.path, settings, shard)
            except BaseException:
                self._manifest.close()
                raise

    def __enter__(self) -> Job:
        with ExitStack() as stack:
            stack.callback(self._manifest.close)
            stack.enter_context(self.labels)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, annotator: Annotator, source: Source | None, raise_errors: bool) -> None:
        """Label what is left of the files, or of `source` if there are none, with a progress bar."""
        batch_size = annotator.config.batch
        batches: Iterator[list[ImageLoader]]
        if self._files is not None:
            batches = batches_of_files(self._files, self._shard, self.done, batch_size, self._finished_videos)
        else:
            assert source is not None
            batches = batches_of_source(
                source, self._shard, self.done, batch_size, self.history.digests, self._seen_keys
            )
        renderer = Renderer(self.labels.formats, self.labels.folder, None if self._files is None else self._files.root)
        labeller = BatchLabeller(annotator, self.labels, renderer, self.preview, raise_errors=raise_errors)
        total, initial = self.count_images(source), len(self.done - self.history.videos)
        with progress_bar(total=total, initial=initial, desc="auto_annotate", unit="image") as bar:

            def record(line: ManifestLine) -> None:
                self.record(line)
                bar.update()

            labeller.run(batches, self.done, record)
        for video in self._finished_videos:
            self.record({"key": video, "status": "video"})

    def record(self, line: ManifestLine) -> None:
        """Append a line to the manifest, unless it repeats a recorded error. Safe to call from several threads."""
        with self._lock:
            if line["status"] == "error" and self.history.failed.get(line["key"]) == line["error"]:
                return
            self._manifest.append(line)
            self.history.add(line)
            self.num_labelled += line["status"] == "ok"

    def finish(self) -> None:
        """Write the files that cover all images, if all shards are done: the shard that ends last does it."""
        files = self._files
        if files is None and self._shard != UNSHARDED:  # one shard of a source can't tell how many images there are
            logger.info('once all shards are done, run with shard="0/1" to write the files that cover all images')
            return
        full_history = read_history(self.labels.folder, self._settings)
        processed = (full_history.finished | full_history.videos | full_history.failed.keys()) - _find_renamed(
            full_history, files
        )
        num_pending = 0 if files is None else sum(key not in processed for key in files.keys)
        if num_pending:
            logger.info(
                "%d images of other shards aren't done yet; the last shard writes the files that cover all images",
                num_pending,
            )
            return
        # Leave out images in the folder that came from another call, with a source that holds other names.
        finished = full_history.finished & self._seen_keys if self._seen_keys else full_history.finished
        write_dataset_files(self.labels, full_history, finished_label_names(files, finished), self.preview)

    def count_images(self, source: Source | None = None) -> int | None:
        """Return the number of images in this shard, frames as the headers of videos give it; None if unknown."""
        if self._files is None:
            return None if source is None or self._shard != UNSHARDED else source.estimate_total()
        keys = [key for key in self._files.keys if key in self._shard]
        videos = [self._files.path(key) for key in keys if is_video(key)]
        return len(keys) - len(videos) + sum(expected_frame_count(path, 1) or 0 for path in videos)

    def _label_names(self) -> dict[str, str]:
        """Return the names of label files by key, for the image files of this shard."""
        files = self._files
        if files is None:
            return {}
        return {key: files.label_name(key) for key in files.keys if key in self._shard and not is_video(key)}

    def _find_done(self) -> set[str]:
        # Sorted, so that `present` gets them folder by folder.
        names = {key: self.history.label_name(key) for key in sorted(self.history.finished)}
        present = self.labels.find_existing(names.values())
        # If images were added or removed, another image may have this name now, so that its labels lie there.
        not_done = _find_renamed(self.history, self._files)
        # A video with a frame that is lost isn't done either.
        not_done |= {
            affected for key, name in names.items() if name not in present for affected in (key, file_key(key))
        }
        folder = self.labels.folder
        not_done |= {key for key in self.preview.keys if key in names and not self.preview.has_thumbnail(folder, key)}
        return (self.history.finished | self.history.videos) - not_done

    def _reject_unrecorded_labels(self) -> None:
        folder = self.labels.folder
        existing = self.labels.find_existing(self._label_names().values(), any)
        if existing:
            example = next(path for path in self.labels.paths(min(existing)) if (folder / path).exists())
            raise ValueError(
                f"{folder} holds labels of {len(existing)} of the images, such as {example}, that no run recorded and "
                "that may be hand-made. Give another output_dir, or resume=False to replace them"
            )


def _find_renamed(history: History, files: FileList | None) -> set[str]:
    """Return finished images, frames and videos whose label files would get another name now."""
    if files is None or not (history.renamed or files.renamed):
        return set()
    renamed: set[str] = set()
    for key in history.finished:
        file = file_key(key)
        label_name = files.label_name(file) + key[len(file) :].replace("#", "_")
        if history.label_name(key) != label_name:
            renamed |= {key, file}
    return renamed
