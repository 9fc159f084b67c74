"""`Work`: loads, labels and writes groups of images concurrently, and makes their lines for the manifest."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from .._log import logger
from ..results import Results
from .annotator import Annotator
from .files import LabelFiles, path_of
from .loading import Load, Loaded
from .pipeline import Pipeline
from .preview import Preview
from .rendering import Renderer
from .worklist import own_name

Line = dict[str, Any]


class Outcome(NamedTuple):
    """An image and its masks, or the error that it failed with."""

    loaded: Loaded
    results: Results | None
    error: str = ""


class Work:
    """The labelling of groups of images, and the writing of their files.

    labels: where to write; must have been entered as a context manager. render: makes the content of the files.
    preview: images whose thumbnails are stored. stop_at_errors: raise for the first image that can't be read or
    labelled, instead of recording it.
    """

    def __init__(
        self,
        annotator: Annotator,
        labels: LabelFiles,
        render: Renderer,
        preview: Preview,
        *,
        stop_at_errors: bool = False,
    ) -> None:
        self._annotator = annotator
        self._labels = labels
        self._render = render
        self._preview = preview
        self._stop_at_errors = stop_at_errors

    def run(self, groups: Iterator[list[Load]], done: Collection[str], record: Callable[[Line], None]) -> None:
        """Label the images of `groups` whose keys aren't in `done`.

        record: called from several threads with the manifest line of each image, once its files are in place. OSError
        if files can't be written; `Annotator.label` says when failures of detector and model are raised.
        """

        def write(outcome: Outcome) -> None:
            try:
                self._write(outcome)
                record(_line(outcome))
            except (OSError, ValueError) as error:
                # Labels or file names that can't be written, such as a name with a line break, concern one image only.
                if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                    raise self._cannot_write(error) from error
                if self._stop_at_errors:
                    raise
                record(_line(_skipped(outcome.loaded, error)))

        config = self._annotator.config
        with Pipeline(groups, write, workers=config.workers, batch=config.batch) as pipeline:
            for group in pipeline:
                for outcome in self._label(group):
                    if outcome.loaded.key not in done:
                        pipeline.write(outcome)

    def _label(self, group: Sequence[Loaded]) -> Iterator[Outcome]:
        images = [(loaded.image, loaded.key) for loaded in group if loaded.image is not None]
        labelled = iter(self._annotator.label([image for image, _ in images], [key for _, key in images]))
        for loaded in group:
            if loaded.image is None:
                if self._stop_at_errors:
                    raise ValueError(f"{loaded.key}: {loaded.error}")
                yield Outcome(loaded, None, loaded.error)
                continue
            found = next(labelled)
            if isinstance(found, Results):
                yield Outcome(loaded, found)
                continue
            if self._stop_at_errors:
                raise found
            yield _skipped(loaded, found)

    def _write(self, outcome: Outcome) -> None:
        loaded, results, _ = outcome
        if results is None:
            return
        rendered = self._render(results, loaded.file_name, loaded.name)
        contents = [(path_of(form, loaded.name), content) for form, content in rendered.items()]
        if loaded.key in self._preview:
            contents.append(self._preview.tile(loaded.key, results))
        self._labels.write(contents)

    def _cannot_write(self, problem: OSError) -> OSError:
        folder = self._labels.folder
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"no space is left for {folder}. Finished images are recorded: free some space and run again"
        else:
            hint = f"can't write to {folder}: {problem.strerror or problem}. Finished images are recorded: run again"
        return OSError(problem.errno, f"{hint} to continue")


def _skipped(loaded: Loaded, error: Exception) -> Outcome:
    reason = f"{type(error).__name__}: {error}"
    logger.warning("skipped %s: %s", loaded.key, reason)
    return Outcome(loaded._replace(image=None), None, reason)


def _line(outcome: Outcome) -> Line:
    loaded, results, error = outcome
    moment = round(time.time(), 3)
    if results is None:
        return {"key": loaded.key, "status": "error", "error": error, "time": moment}
    height, width = results.orig_shape
    classes = Counter((int(row[5]), results.name_of(row[5])) for row in results.rows())
    more = {"name": loaded.name} if loaded.name != own_name(loaded.key) else {}
    if loaded.digest:
        more["digest"] = loaded.digest
    return {
        "key": loaded.key,
        **more,
        "status": "ok",
        "width": width,
        "height": height,
        "classes": [[class_id, name, count] for (class_id, name), count in sorted(classes.items())],
        "time": moment,
    }
