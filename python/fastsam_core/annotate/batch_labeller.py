"""`BatchLabeller`: loads, labels and writes batches of images concurrently, and makes their lines for the manifest."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from .._log import logger
from ..formats.labels import MAX_CLASS_ID
from ..results import Results
from .annotator import Annotator
from .file_list import default_label_name
from .files import LabelFiles, label_path
from .loading import ImageLoader, LoadedImage
from .pipeline import Pipeline
from .preview import Preview
from .rendering import Renderer

ManifestLine = dict[str, Any]
# A name is too long, has characters that the file system refuses (FAT `?`, APFS invalid UTF-8), or is that of a label
# file and of a folder of labels: images a.jpg and a.txt/b.jpg.
_ERRORS_OF_ONE_NAME = (
    errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EEXIST, errno.EISDIR, errno.ENOTDIR,
)  # fmt: skip


class LabellingResult(NamedTuple):
    """An image and its masks, or the error that it failed with."""

    loaded: LoadedImage
    results: Results | None
    error: str = ""


class BatchLabeller:
    """The labelling of batches of images, and the writing of their files.

    labels: where to write; must have been entered as a context manager. renderer: makes the content of the files.
    preview: images whose thumbnails are stored. raise_errors: raise for the first image that can't be read or
    labelled, instead of recording it.
    """

    def __init__(
        self,
        annotator: Annotator,
        labels: LabelFiles,
        renderer: Renderer,
        preview: Preview,
        *,
        raise_errors: bool = False,
    ) -> None:
        self._annotator = annotator
        self._labels = labels
        self._renderer = renderer
        self._preview = preview
        self._raise_errors = raise_errors
        self._recorded_names: set[tuple[int, str]] = set()
        self._names_lock = threading.Lock()

    def run(
        self, batches: Iterator[list[ImageLoader]], done: Collection[str], record: Callable[[ManifestLine], None]
    ) -> None:
        """Label the images of `batches` whose keys aren't in `done`.

        record: called from several threads with the manifest line of each image, once its files are in place. OSError
        if files can't be written; `Annotator.label` says when failures of detector and model are raised.
        """

        def write(outcome: LabellingResult) -> None:
            try:
                self._write(outcome)
                record(self._manifest_line(outcome))
            except (OSError, ValueError) as error:
                # Labels or file names that can't be written, such as a name with a line break, concern one image only.
                if isinstance(error, OSError) and error.errno not in _ERRORS_OF_ONE_NAME:
                    raise self._write_error(error) from error
                if self._raise_errors:
                    raise
                record(self._manifest_line(_failed(outcome.loaded, error)))

        config = self._annotator.config
        with Pipeline(batches, write, num_workers=config.workers, batch_size=config.batch) as pipeline:
            for batch in pipeline:
                for outcome in self._label(batch):
                    if outcome.loaded.key not in done:
                        pipeline.write(outcome)

    def _label(self, batch: Sequence[LoadedImage]) -> Iterator[LabellingResult]:
        images = [(loaded.image, loaded.key) for loaded in batch if loaded.image is not None]
        labelled = iter(self._annotator.label([image for image, _ in images], [key for _, key in images]))
        for loaded in batch:
            if loaded.image is None:
                if self._raise_errors:
                    raise ValueError(f"{loaded.key}: {loaded.error}")
                yield LabellingResult(loaded, None, loaded.error)
                continue
            result = next(labelled)
            if isinstance(result, Results):
                yield LabellingResult(loaded, result)
                continue
            if self._raise_errors:
                raise result
            yield _failed(loaded, result)

    def _write(self, outcome: LabellingResult) -> None:
        loaded, results, _ = outcome
        if results is None:
            return
        rendered = self._renderer(results, loaded.file_name, loaded.label_name)
        contents = [(label_path(fmt, loaded.label_name), content) for fmt, content in rendered.items()]
        if loaded.key in self._preview:
            contents.append(self._preview.thumbnail(loaded.key, results))
        self._labels.write(contents)

    def _manifest_line(self, outcome: LabellingResult) -> ManifestLine:
        loaded, results, error = outcome
        timestamp = round(time.time(), 3)
        if results is None:
            return {"key": loaded.key, "status": "error", "error": error, "time": timestamp}
        height, width = results.orig_shape
        classes = Counter((int(row[5]), results.name_of(row[5])) for row in results.rows())
        optional: ManifestLine = {}
        if loaded.label_name != default_label_name(loaded.key):
            optional["name"] = loaded.label_name
        if loaded.digest:
            optional["digest"] = loaded.digest
        if new_names := self._new_names(results):
            optional["names"] = new_names
        return {
            "key": loaded.key,
            **optional,
            "status": "ok",
            "width": width,
            "height": height,
            "classes": [[class_id, name, count] for (class_id, name), count in sorted(classes.items())],
            "time": timestamp,
        }

    def _new_names(self, results: Results) -> list[tuple[int, str]]:
        """Return the class names that no line of this process has yet. Usually they all are in the first one."""
        with self._names_lock:
            new = results.names.items() - self._recorded_names
            self._recorded_names |= new
        return sorted((class_id, name) for class_id, name in new if 0 <= class_id <= MAX_CLASS_ID)

    def _write_error(self, error: OSError) -> OSError:
        folder = self._labels.folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"no space is left for {folder}. Finished images are recorded: free some space and run again"
        else:
            hint = f"can't write to {folder}: {error.strerror or error}. Finished images are recorded: run again"
        return OSError(error.errno, f"{hint} to continue")


def _failed(loaded: LoadedImage, error: Exception) -> LabellingResult:
    reason = f"{type(error).__name__}: {error}"
    logger.warning("skipped %s: %s", loaded.key, reason)
    return LabellingResult(loaded._replace(image=None), None, reason)
