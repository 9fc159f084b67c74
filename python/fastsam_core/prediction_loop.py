"""Base class of all predictors: options, callbacks, the output folder of a run, and the loop over a source's images."""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import saving
from ._log import format_count, log_or_print, warn_once
from .config import Config
from .ops._threads import pytorch_thread_count
from .results import Results
from .sources import Item, Source, load_sources
from .stopwatch import Stopwatch

EVENTS = (
    "on_predict_start",
    "on_predict_batch_start",
    "on_predict_postprocess_end",
    "on_predict_batch_end",
    "on_predict_end",
)
Callback = Callable[[Any], Any]
# Processes a group of images that were read together; the writer, if any, saves the results.
ProcessBatch = Callable[[list[Item], saving.ResultWriter | None], Iterable[Results]]


class PredictionLoop:
    """State of a run over a source.

    args: the options; they may be changed one by one, also by callbacks. callbacks: functions by event name, each
    called with this predictor. `batch` holds the paths, images and log labels of the last batch, and `results` its
    results. `seen` is the number of images that the last call processed. `save_dir` is the output folder, which may be
    assigned. `plotted_img` is the last image that was drawn to be saved or shown, BGR (H, W, 3). Calls from several
    threads take turns.
    """

    model: nn.Module | None

    def __init__(self, args: Config, callbacks: dict[str, list[Callback]] | None = None) -> None:
        self._args = args
        self._call: tuple[int, Config] | None = None  # thread and options of the call whose images are being processed
        self.callbacks: dict[str, list[Callback]] = defaultdict(list) if callbacks is None else callbacks
        self.dataset: Source | None = None
        self.batch: tuple[list[str], list[np.ndarray], list[str]] | None = None
        self.results: list[Results] = []
        self._output: tuple[Sequence[Item], saving.ResultWriter | None] = ((), None)  # for `write_results`
        self.seen = 0
        self.save_dir: Path | None = None
        self.plotted_img: np.ndarray | None = None
        self._own_save_dir: Path | None = None  # the folder that was created, and what its name depends on
        self._save_dir_key: tuple[Any, ...] = ()
        self._lock = threading.RLock()
        _INSTANCES.add(self)

    def __getstate__(self) -> dict[str, Any]:
        # Locks and open sources can't be copied; `__setstate__` gives the copy its own.
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_lock", "_call", "_output", "dataset")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _call=None, _output=((), None), dataset=None)
        _INSTANCES.add(self)

    @property
    def args(self) -> Config:
        """The options: in callbacks and overridden methods those of the running call, else what calls start from."""
        return self._call[1] if self._call is not None and self._is_in_call else self._args

    @args.setter
    def args(self, args: Config) -> None:
        self._args = args

    @property
    def _is_in_call(self) -> bool:
        """Whether this thread is in the middle of a call, as callbacks are."""
        return self._call is not None and self._call[0] == threading.get_ident()

    @contextmanager
    def _in_call(self, config: Config) -> Iterator[None]:
        """Hold the lock; meanwhile `config` are the options that `args` gives."""
        pytorch_thread_count()  # in a new thread this may be the first use of PyTorch
        with self._lock:
            outer, self._call = self._call, (threading.get_ident(), config)
            try:
                yield
            finally:
                self._call = outer

    @property
    def device(self) -> torch.device | None:
        """Device of the model; None before it is loaded. Assigning sets the option `device`, for the calls to come."""
        return None if self.model is None else next(self.model.parameters()).device

    @device.setter
    def device(self, device: Any) -> None:
        self.args.device = device

    def setup_model(self, model: Any = None, verbose: bool = True) -> None:
        """Set the model to `model`, by default that of the options."""
        raise NotImplementedError

    def collect(self, results: Iterator[Results], source: Any) -> list[Results]:
        """Return all results of a source; log once that those of long sources take memory."""
        if source is not None and self.dataset is not None and self.dataset.kind in ("video", "stream", "iterator"):
            warn_once("the results of all frames are kept in memory; stream=True gives them one by one")
        return list(results)

    def setup_source(self, source: Any, config: Config | None = None) -> Source:
        """Open `source` with the options `vid_stride` and `stream_buffer`, and store it as `dataset`."""
        config = config or self.args
        self.dataset = load_sources(source, vid_stride=config.vid_stride, stream_buffer=config.stream_buffer)
        return self.dataset

    def add_callback(self, event: str, function: Callback) -> None:
        """Register `function(predictor)` to be called at `event`, one of `EVENTS`."""
        check_callback(event, function)
        self.callbacks.setdefault(event, []).append(function)

    # --- the loop ---

    def _run_loop(
        self, items: Source | Iterable[Item], config: Config, process_batch: ProcessBatch
    ) -> Iterator[Results]:
        """Yield the results of `process_batch`, which gets `config.batch` images at a time.

        Writes them, logs a summary and runs the callbacks.
        """
        writer = saving.ResultWriter(self._output_folder(config), config) if saving.writes_files(config) else None
        if writer is None and config.show:
            writer = saving.ResultWriter(Path(), config)
        total_ms = dict.fromkeys(Stopwatch().speed, 0.0)
        num_images = 0
        # A callback may itself run a prediction; afterwards restore the batch and results that it was called for.
        outer_state = (self.batch, self.results, self.seen) if self._is_in_call else None
        try:
            with self._in_call(config):
                self.seen = 0
                self._ready(config)
                self.run_callbacks("on_predict_start")
            for batch in _batched(items, _batch_size(items, config)):
                for result in process_batch(batch, writer):
                    if isinstance(result, Results):  # a callback may have replaced it by anything
                        num_images += 1
                        for phase, elapsed in result.speed.items():
                            total_ms[phase] = total_ms.get(phase, 0.0) + (elapsed or 0.0)
                    yield result
        except BaseException:
            is_own = self.save_dir is self._own_save_dir
            if writer is not None and saving.writes_files(config) and not config.exist_ok and is_own:
                with suppress(OSError):  # fails if the folder isn't empty, which then stays
                    writer.folder.rmdir()
                    if self.save_dir == writer.folder:
                        self.save_dir = None  # another run may create a folder of this name
            raise
        finally:
            if outer_state is not None:
                self.batch, self.results, self.seen = outer_state
            if isinstance(items, Source):
                items.close()
            if writer is not None:
                writer.close()
        self._log_summary(config, total_ms, num_images, writer)
        with self._in_call(config):
            self.run_callbacks("on_predict_end")

    def _ready(self, config: Config) -> None:
        """Load the model, for callbacks that use it before the first image."""

    def _begin_batch(self, items: Sequence[Item]) -> None:
        """Begin a batch: set `self.batch` to these items and fire the callbacks."""
        images = [item.image for item in items if item.image is not None]
        self.batch = [item.path for item in items], images, [item.label for item in items]
        self.run_callbacks("on_predict_batch_start")

    def _path_of(self, image: Any) -> str | None:
        """Return the path of an image of the batch; None for any other image."""
        paths, images, _ = self.batch or ((), (), ())
        return next((path for path, other in zip(paths, images, strict=False) if other is image), None)

    def _end_batch(
        self, items: Sequence[Item], results: list[Results], config: Config, writer: saving.ResultWriter | None
    ) -> list[Results]:
        """Finish a batch: count, log and write its results, and fire the callbacks.

        Returns `self.results`, which a callback may have replaced. Raises ValueError if callbacks left a different
        number of results than of items.
        """
        self.results = results
        self.run_callbacks("on_predict_postprocess_end")
        if len(self.results) != len(items):
            raise ValueError(
                f"a callback left {len(self.results)} results for {len(items)} images: one for each is needed"
            )
        self._output = items, writer
        labels = [item.label for item in items]
        for index, (item, result) in enumerate(zip(items, self.results, strict=True)):
            self.seen += 1
            line = self.write_results(index, Path(item.path), None, labels)
            if config.verbose:
                elapsed = sum(phase or 0.0 for phase in result.speed.values())
                log_or_print(f"{item.label}{line}{elapsed:.1f}ms")
        self.run_callbacks("on_predict_batch_end")
        return self.results

    def write_results(self, i: int, p: Path, im: Any, s: list[str]) -> str:
        """Write and show what the options ask for, for one of `results`; return the text of its line in the log.

        i: its number in the batch. p, im, s: path of its image, None, and the beginnings of all lines of the batch, for
        subclasses that override this method as they do in Ultralytics.
        """
        items, writer = self._output
        result = self.results[i]
        if writer is not None:
            self.plotted_img = writer.write(items[i], result)
        return "{}x{} {}, ".format(*result.orig_shape, self._describe_result(result)) if self.args.verbose else ""

    def _describe_result(self, result: Results) -> str:
        """Describe what was found, for the log."""
        return result.verbose().rstrip(", ")

    def _input_shape(self, config: Config) -> str:
        """Describe the shape of the network's last input, for the log; empty if there was none."""
        return ""

    def _log_summary(
        self, config: Config, total_ms: Mapping[str, float], num_images: int, writer: saving.ResultWriter | None
    ) -> None:
        if config.verbose and num_images:
            means = ", ".join(f"{elapsed / num_images:.1f}ms {phase}" for phase, elapsed in total_ms.items())
            shape = self._input_shape(config)
            log_or_print(f"Speed: {means} per image{f' at shape {shape}' if shape else ''}")
        if writer is not None and saving.writes_files(config):
            files = format_count(writer.num_label_files, "label file")
            labels = f", {files} in {writer.folder / 'labels'}" if config.save_txt else ""
            log_or_print(f"Results saved to {writer.folder}{labels}")

    def _output_folder(self, config: Config) -> Path:
        """Return this predictor's output folder; create a new one when the options that name it have changed."""
        key = config.project, config.name, config.mode, config.exist_ok, Path.cwd()
        with self._lock:
            if self.save_dir is not None and self.save_dir is not self._own_save_dir:  # assigned by the caller
                Path(self.save_dir).mkdir(parents=True, exist_ok=True)
            elif self.save_dir is None or key != self._save_dir_key:
                self.save_dir = self._own_save_dir = saving.create_run_folder(config)
                self._save_dir_key = key
            return Path(self.save_dir)

    def run_callbacks(self, event: str) -> None:
        """Call the functions that are registered for an event."""
        for function in list(self.callbacks.get(event, ())):
            function(self)


_INSTANCES: weakref.WeakSet[PredictionLoop] = weakref.WeakSet()


def _replace_locks() -> None:
    """Replace the locks in a forked child, where the thread that held one would never release it."""
    for loop in _INSTANCES:
        loop._lock = threading.RLock()
        loop._call = loop._call if loop._is_in_call else None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_locks)


def check_event(event: str) -> None:
    """Raise ValueError for an unknown event."""
    if event not in EVENTS:
        raise ValueError(f"unknown event {event!r}; the events are {', '.join(EVENTS)}")


def check_callback(event: str, function: Any) -> None:
    """Raise ValueError for an unknown event, and TypeError if `function` is not callable."""
    check_event(event)
    if not callable(function):
        raise TypeError(f"a callback is a function that takes the predictor, not {function!r}")


def _batch_size(items: Source | Iterable[Item], config: Config) -> int:
    """Return how many images to read before processing them: `batch`, or 1 for live streams."""
    if config.batch > 1 and isinstance(items, Source) and items.kind == "stream":
        warn_once("batch has no effect on live streams: waiting for a full batch would delay their frames")
        return 1
    return config.batch


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield groups of up to `size` readable items. If the source raises, first yield what was read, then re-raise."""
    source = iter(items)
    failure: Exception | None = None
    while failure is None:
        batch: list[Item] = []
        try:
            for item in source:
                if item.image is None:  # unreadable; the source has logged it
                    continue
                batch.append(item)
                if len(batch) == size:
                    break
        except Exception as error:
            failure = error
        if batch:
            yield batch
        if failure is None and len(batch) < size:
            return
    raise failure


def checked_results(results: Any, count: int) -> list[Results]:
    """Return what an overridden `postprocess` returned; TypeError or ValueError unless it is a list of `count`."""
    if not isinstance(results, list | tuple):
        raise TypeError(f"postprocess must return a list of Results, one per image, not {type(results).__name__}")
    if len(results) != count:
        raise ValueError(f"postprocess returned {len(results)} results for {count} images: one for each is needed")
    return list(results)
