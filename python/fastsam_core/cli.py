"""The command line program `fastsam`, as in `fastsam predict source=photo.jpg points=[[900,370]]`."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from ._arguments import UsageError, parse
from ._environment import read_switch
from ._log import format_count, hide_passwords, logger
from ._progress import progress_bar
from .config import ALIASES, BOOLEAN_OPTIONS, FIELDS, PROMPT_KEYS, STRING_OPTIONS, Config, DetectConfig, unknown_option
from .option_parsers import boolean

if TYPE_CHECKING:
    from .results import Results

DEFAULT_MODEL = "sam_nano.pt"
# Tasks and modes of Ultralytics' command line. Only the tasks segment and detect exist here, and none of these modes.
_TASKS = ("segment", "detect", "semantic", "depth", "classify", "pose", "obb")
_UNSUPPORTED_COMMANDS = ("train", "export", "track", "benchmark", "checks", "settings", "cfg", "copy-cfg", "solutions")
# Errors whose message is understandable without the exception's type.
_EXPECTED_ERRORS = (ValueError, TypeError, ImportError, MemoryError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, by default that of the process, and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = ""
    with _log_to_terminal():
        try:
            debug = read_switch("FASTSAM_DEBUG")
            command, values = _parse_command(argv)
            _COMMANDS[command](values)
            return 0
        except UsageError as error:
            return _report_error(2, f"{error} (see fastsam help)")
        except KeyboardInterrupt:
            return _report_error(130, "stopped")
        except BrokenPipeError:
            # The reader of our output has exited; the interpreter must not try to flush to the pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if debug == "1":
                traceback.print_exc()
            text = str(error) or type(error).__name__
            if not isinstance(error, _EXPECTED_ERRORS):
                text = f"{type(error).__name__}: {text} (FASTSAM_DEBUG=1 shows where)"
            return _report_error(1, text)


def _report_error(status: int, message: str) -> int:
    print(f"fastsam: error: {hide_passwords(' '.join(message.split()))}", file=sys.stderr)
    return status


def _parse_command(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command and its values. Raises UsageError for words and combinations that make no command."""
    arguments = parse(
        argv,
        switches={
            *BOOLEAN_OPTIONS,
            *(key for key, (name, _) in ALIASES.items() if name in BOOLEAN_OPTIONS),
            "half",
            *_SPECIAL_SWITCHES,
        },
        texts={*STRING_OPTIONS, *_NAME_KEYS},
        lists={"texts", "formats", "measures"},
        names={"names"},
    )
    values = arguments.values
    for key in _NAME_KEYS:  # often an unset shell variable; an empty name would mean the current folder or a default
        if values.get(key) == "":
            raise UsageError(f"{key} is empty")
    commands = [word for word in arguments.words if word in _COMMANDS]
    short_flags = {"-h": "help", "-V": "version"}
    for word in (*values, *arguments.words):
        word = short_flags.get(word, word)
        if word in short_flags.values():
            command = next((command for command in commands if command != word), None)
            unknown = [other for other in arguments.words if other not in (*_COMMANDS, *_TASKS, *short_flags)]
            if word == "help" and command is None and unknown:
                raise UsageError(_unknown_command(unknown[0]))
            return word, {"command": command}
    if not commands and values.get("mode") is not None:
        if values["mode"] not in _COMMANDS:
            raise UsageError(_unknown_word(str(values["mode"])))
        commands = [values["mode"]]
    for word in arguments.words:
        if word in _TASKS:
            if word == "detect":
                values.setdefault("task", word)
            elif word != "segment":
                logger.warning("the task is segment, not %s", word)
        elif word not in _COMMANDS and not ("convert" in commands and word.endswith(_WEIGHTS)):
            raise UsageError(_unknown_word(word))
    if commands == ["convert"]:
        values["checkpoints"] = [word for word in arguments.words if word.endswith(_WEIGHTS)]
    if len(set(commands)) > 1:
        raise UsageError(f"one command at a time, not {' and '.join(dict.fromkeys(commands))}")
    if not commands and not values:
        return "help", {}
    return (commands[0] if commands else "predict"), values


# Keys whose values are names: of files, or of choices.
_NAME_KEYS = (
    *("data", "output", "from", "to", "images", "source", "target", "work_dir", "output_dir"),
    *("model", "sam_model", "det_model", "shard", "on_error"),
)
_WEIGHTS = (".pt", ".pth", ".safetensors")
_SPECIAL_SWITCHES = (
    "multimask_output",
    "help",
    "version",
    "detailed",
    "resume",
    "baselines",
    "mask_feedback",
    "rows",
    "scores",
    "polygons",
    "embed_images",
)


def _unknown_command(word: str) -> str:
    similar = difflib.get_close_matches(word, _COMMANDS, n=1)
    suggestion = f"did you mean {similar[0]}? The" if similar else "the"
    return f"{word!r} is not a command; {suggestion} commands are {', '.join(_COMMANDS)}"


def _unknown_word(word: str) -> str:
    if word in _UNSUPPORTED_COMMANDS:
        return f"{word!r} is not supported; the commands are {', '.join(_COMMANDS)}"
    if word.endswith(_WEIGHTS):
        return f"{word!r} is neither a command nor key=value; did you mean model={word}?"
    if "." in word or "/" in word:
        return f"{word!r} is neither a command nor key=value; did you mean source={word}?"
    similar = difflib.get_close_matches(word, [*_COMMANDS, *FIELDS, *ALIASES, *PROMPT_KEYS, "source"], n=1)
    if not similar:
        return f"{word!r} is neither a command nor key=value"
    suggestion = similar[0] if similar[0] in _COMMANDS or similar[0] in BOOLEAN_OPTIONS else f"{similar[0]}=..."
    return f"{word!r} is neither a command nor key=value; did you mean {suggestion}?"


def _predict(values: dict[str, Any]) -> None:
    for key in values:
        if key not in FIELDS and key not in ALIASES and key not in PROMPT_KEYS and key != "source":
            raise UsageError(unknown_option(key))
    prompts = {key: values.pop(key) for key in PROMPT_KEYS if key in values}
    source = values.pop("source", None)
    name = values.pop("model", None) or DEFAULT_MODEL
    values.setdefault("save", True)
    model_class = _model_class(name, values.get("task"))
    unsupported = [key for key in prompts if key not in _PROMPTS_BY_CLASS[model_class]]
    if unsupported:
        raise UsageError(f"{model_class} takes no {' and no '.join(unsupported)}")
    (Config if model_class == "SAM" else DetectConfig)().updated(values)  # refuses bad values before a model is loaded
    if isinstance(prompts.get("masks"), str):
        prompts["masks"] = _read_masks(os.path.expanduser(prompts["masks"]))
    model = _load(model_class, name)
    started = time.perf_counter()
    num_images = num_objects = 0
    results = model(source, stream=True, **prompts, **values)
    for result in _progress(results, model):
        num_images += 1
        num_objects += len(result)
    if not num_images:
        raise ValueError(f"no image of {source} could be read")
    noun = "object" if getattr(model, "task", None) == "detect" else "mask"
    print(
        f"{format_count(num_images, 'image')}, {format_count(num_objects, noun)}, {time.perf_counter() - started:.1f} s"
    )


def _read_masks(path: str) -> Any:
    """Read mask prompts from an .npy file, or one from a PNG, which is 0 outside of the object."""
    import numpy as np

    from .evaluate.label_maps import read_png

    if not path.lower().endswith(".npy"):
        return read_png(Path(path)) != 0
    with open(path, "rb") as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is not an .npy file of numbers: {error}") from error


_PROMPTS_BY_CLASS = {"SAM": PROMPT_KEYS, "FastSAM": ("bboxes", "points", "labels", "texts"), "YOLO": ()}


def _model_class(name: Any, task: Any = None) -> str:
    """Return the model class that a checkpoint name stands for: "SAM", "FastSAM" or "YOLO".

    The task `detect` marks a YOLO checkpoint with any other name.
    """
    stem = Path(str(name)).stem.lower()
    if "fastsam" in stem:
        return "FastSAM"
    return "YOLO" if "yolo" in stem or task == "detect" else "SAM"


def _load(model_class: str, name: Any) -> Any:
    if model_class == "FastSAM":
        from .detect.fastsam import FastSAM

        return FastSAM(name)
    if model_class == "YOLO":
        from .detect.yolo.model import YOLO

        return YOLO(name)
    from .sam import SAM

    return SAM(name)


def _progress(results: Iterator[Results], model: Any) -> Iterator[Results]:
    """Wrap results in a progress bar over images or frames, shown on a terminal if there is more than one image.

    Log lines of images are printed above the bar.
    """
    total = model.predictor.dataset.estimate_total()
    return iter(progress_bar(results, total=total, unit="image", show=False if total == 1 else None))


def _annotate(values: dict[str, Any]) -> None:
    from .annotate import command

    command.run(values)


def _tiles(values: dict[str, Any]) -> None:
    from .tiles import command

    command.run(values)


def _val(values: dict[str, Any]) -> None:
    from .evaluate import command

    command.run(values)


def _info(values: dict[str, Any]) -> None:
    for key in values:
        if key not in ("model", "detailed"):
            raise UsageError(f"unknown option {key!r} of info; accepted: model, detailed")
    name = values.get("model") or DEFAULT_MODEL
    detailed = boolean("detailed", values.get("detailed") or False)
    _load(_model_class(name), name).info(detailed=detailed)


def _convert(values: dict[str, Any]) -> None:
    checkpoints = values.pop("checkpoints")
    if not checkpoints:
        from .formats import convert

        convert.run(values)
        return
    if len(checkpoints) != 2 or values:
        raise UsageError(
            "convert takes a checkpoint and a .safetensors file to write (fastsam convert x.pt x.safetensors), "
            "or label files (fastsam convert data=labels/ from=yolo to=coco output=labels.json)"
        )
    from .convert_checkpoint import convert_checkpoint

    converted = convert_checkpoint(*checkpoints)
    print(f"{converted.path}: {converted.model}, {format_count(converted.tensors, 'tensor')}")


def _doctor(values: dict[str, Any]) -> None:
    if values:
        raise UsageError(f"doctor takes no options, but {', '.join(values)} given")
    from .doctor import report

    print(report())


def _help(values: dict[str, Any]) -> None:
    from ._help import help_text

    print(help_text(values.get("command"), DEFAULT_MODEL))


def _version(values: dict[str, Any]) -> None:
    print(__version__)


_COMMANDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "predict": _predict,
    "annotate": _annotate,
    "tiles": _tiles,
    "convert": _convert,
    "val": _val,
    "info": _info,
    "doctor": _doctor,
    "help": _help,
    "version": _version,
}


class _TerminalHandler(logging.Handler):
    """Log handler that writes messages to stdout and warnings to stderr, without disturbing progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if record.levelno >= logging.WARNING:
            message = f"fastsam: {record.levelname.lower()}: {message}"
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        if stream is None:  # in a service or a windowed program
            return
        bars = sys.modules.get("tqdm")
        if bars is not None:
            bars.tqdm.write(message, file=stream)
        else:
            print(message, file=stream)


@contextlib.contextmanager
def _log_to_terminal() -> Iterator[None]:
    for stream in (sys.stdout, sys.stderr):
        # File names may contain characters that the terminal can't encode; escape these instead of failing.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    handler, level, propagate = _TerminalHandler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
