"""`Job`, one run over a set of images, which resumes earlier runs and records what is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from .._log import logger
from ..sources import Source
from ..sources.video import expected_frame_count
from .annotator import Annotator
from .assemble import assemble
from .files import LabelFiles
from .loading import Load, finished_names, groups_of_files, groups_of_source
from .manifest import History, Manifest, forget_others, is_started, read
from .preview import Preview
from .rendering import Renderer
from .shards import WHOLE, Shard
from .work import Line, Work
from .worklist import FileList, file_of, is_video


class Job:
    """One run over the images of a shard: it labels, writes and records those that aren't done yet.

    Creating a job locks the shard's manifest; use it as a context manager, which releases it. `history` is what the
    manifests record, earlier runs included. `done` holds the keys in it whose label files still exist. `now` is the
    number of images that this run has labelled.

    ValueError if the folder holds labels that no run recorded or that were made with other settings, or if another
    process is writing the manifest.
    """

    def __init__(
        self,
        labels: LabelFiles,
        settings: Mapping[str, Any],
        shard: Shard = WHOLE,
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
        self._turn = threading.Lock()
        self._videos: list[str] = []
        self._seen: set[str] = set()
        self.now = 0
        labels.folder.mkdir(parents=True, exist_ok=True)
        if resume and not is_started(labels.folder):
            self._refuse_labels_of_others()
        self.history = read(labels.folder, settings, lambda key: file_of(key) in shard) if resume else History()
        self.done = self._still_there()
        # Forget images whose files were removed: their next line, also one of an error, replaces the former one.
        if lost := (self.history.finished | self.history.videos) - self.done:
            self.history = read(labels.folder, settings, lambda key: file_of(key) in shard and key not in lost)
        self._manifest = Manifest(labels.folder, settings, shard, resume)
        if not resume:
            try:
                forget_others(self._manifest.path, settings, shard)
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

    def run(self, annotator: Annotator, source: Source | None, stop_at_errors: bool) -> None:
        """Label what is left of the files, or of `source` if there are none, with a progress bar on a terminal."""
        from tqdm.auto import tqdm

        batch = annotator.config.batch
        groups: Iterator[list[Load]]
        if self._files is not None:
            groups = groups_of_files(self._files, self._shard, self.done, batch, self._videos)
        else:
            assert source is not None
            groups = groups_of_source(source, self._shard, self.done, batch, self.history.digests, self._seen)
        render = Renderer(self.labels.formats, self.labels.folder, None if self._files is None else self._files.root)
        work = Work(annotator, self.labels, render, self.preview, stop_at_errors=stop_at_errors)
        with tqdm(
            total=self.total(source), initial=len(self.done - self.history.videos), desc="auto_annotate", unit="image",
            disable=None,
        ) as bar:  # fmt: skip

            def record(line: Line) -> None:
                self.record(line)
                bar.update()

            work.run(groups, self.done, record)
        for video in self._videos:
            self.record({"key": video, "status": "video"})

    def record(self, line: Line) -> None:
        """Append a line to the manifest, unless it repeats a recorded error. Safe to call from several threads."""
        with self._turn:
            if line["status"] == "error" and self.history.failed.get(line["key"]) == line["error"]:
                return
            self._manifest.append(line)
            self.history.add(line)
            self.now += line["status"] == "ok"

    def finish(self) -> None:
        """Write the files that cover all images, if all shards are done: the shard that ends last does it."""
        files = self._files
        if files is None and self._shard != WHOLE:  # one shard of a source can't tell how many images there are
            logger.info('once all shards are done, run with shard="0/1" to write the files that cover all images')
            return
        everything = read(self.labels.folder, self._settings)
        ended = (everything.finished | everything.videos | everything.failed.keys()) - _moved(everything, files)
        left = 0 if files is None else sum(key not in ended for key in files.keys)
        if left:
            logger.info(
                "%d images of other shards aren't done yet; the last shard writes the files that cover all images", left
            )
            return
        # Leave out images in the folder that came from another call, with a source that holds other names.
        finished = everything.finished & self._seen if self._seen else everything.finished
        assemble(self.labels, everything, finished_names(files, finished), self.preview)

    def total(self, source: Source | None = None) -> int | None:
        """Return the number of images in this shard, frames as the headers of videos give it; None if unknown."""
        if self._files is None:
            return None if source is None or self._shard != WHOLE else source.estimate_total()
        keys = [key for key in self._files.keys if key in self._shard]
        videos = [self._files.path(key) for key in keys if is_video(key)]
        return len(keys) - len(videos) + sum(expected_frame_count(path, 1) or 0 for path in videos)

    def _names(self) -> dict[str, str]:
        """Return the names of label files by key, for the image files of this shard."""
        files = self._files
        if files is None:
            return {}
        return {key: files.name(key) for key in files.keys if key in self._shard and not is_video(key)}

    def _still_there(self) -> set[str]:
        # Sorted, so that `present` gets them folder by folder.
        names = {key: self.history.name(key) for key in sorted(self.history.finished)}
        present = self.labels.present(names.values())
        # If images were added or removed, another image may have this name now, so that its labels lie there.
        lost = _moved(self.history, self._files)
        # A video with a frame that is lost isn't done either.
        lost |= {part for key, name in names.items() if name not in present for part in (key, file_of(key))}
        folder = self.labels.folder
        lost |= {key for key in self.preview.keys if key in names and not self.preview.has_tile(folder, key)}
        return (self.history.finished | self.history.videos) - lost

    def _refuse_labels_of_others(self) -> None:
        folder = self.labels.folder
        found = self.labels.present(self._names().values(), any)
        if found:
            example = next(path for path in self.labels.paths(min(found)) if (folder / path).exists())
            raise ValueError(
                f"{folder} holds labels of {len(found)} of the images, such as {example}, that no run recorded and "
                "that may be hand-made. Give another output_dir, or resume=False to replace them"
            )


def _moved(history: History, files: FileList | None) -> set[str]:
    """Return finished images, frames and videos whose label files would get another name now."""
    if files is None or not (history.renamed or files.renamed):
        return set()
    found: set[str] = set()
    for key in history.finished:
        file = file_of(key)
        name = files.name(file) + key[len(file) :].replace("#", "_")
        if history.name(key) != name:
            found |= {key, file}
    return found
