"""Write docs/reference.md from the options, signatures and docstrings of the package.

`python docs/reference.py --write` (`make reference`) updates the page; without `--write` it is printed. A test checks
that it is up to date, so don't edit it by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import fastsam_core
from fastsam_core import detect, embeddings, everything, formats, ops, prompts, rle, tiles
from fastsam_core._files import write_text
from fastsam_core._help import command_options
from fastsam_core.config import ALIASES, FIELDS, PROMPT_KEYS, Config, DetectConfig

PAGE = Path(__file__).with_name("reference.md")

_CLASSES = ("SAM", "Predictor", "Results", "Boxes", "Masks", "YOLO", "FastSAM", "Annotator")
_FUNCTIONS = ("auto_annotate", "yolo_bbox2segment")
_MODULES = {
    tiles: "Images of any size.",
    formats: "Label files.",
    detect: "Detectors.",
    everything: "Segment everything, as a function of a decoder.",
    embeddings: "Embeddings of images in files.",
    rle: "Run-length encoded masks.",
    ops: "Operations, each with a PyTorch implementation and compiled ones.",
}
# Members that modules of the package use among themselves.
_BETWEEN_MODULES = {"from_runs", "has_own_steps", "join", "nameless", "rows", "segment_by_own_steps", "take"}


def page() -> str:
    """Return the text of docs/reference.md."""
    prompt_forms = inspect.cleandoc(prompts.__doc__ or "").partition("\n\n")[2]
    parts = [
        "# Reference",
        "All options, classes and functions. `help(name)` in Python has more of a function: shapes, dtypes and errors. "
        "Meta's interface is in [segment-anything.md](segment-anything.md). `make reference` writes this page.",
        "## Options of a prediction",
        "For `SAM(...)(source, ...)` and `SAM.predict`, for `Predictor(overrides={...})` and its calls, and for "
        "`fastsam predict key=value`.",
        _table(("option", "default", "meaning"), _options(Config)),
        f"Ultralytics' {_listed(key for key, field in FIELDS.items() if field.metadata.get('ignored'))} have no "
        "effect, which is logged.",
        "## Options of YOLO and FastSAM",
        "The options above that don't concern prompts or segment everything, and these, which differ from them.",
        _table(("option", "default", "meaning"), _options(DetectConfig, besides=Config)),
        "## Prompts",
        f"Arguments of a call: {_listed(PROMPT_KEYS)}. Coordinates are in pixels of the original image.",
        f"```text\n{prompt_forms}\n```",
        "## Command line",
        "`fastsam predict` takes the prompts and the options of a prediction, as `key=value`.",
    ]
    for command in ("annotate", "tiles", "val", "convert", "info"):
        rows = [(f"`{key}`", meaning) for key, meaning in command_options(command).items()]
        parts += [f"### fastsam {command}", _table(("option", "meaning"), rows)]
    parts.append("## Classes")
    for name in _CLASSES:
        parts += _class(getattr(fastsam_core, name), f"fastsam_core.{name}")
    parts += ["## Functions", _functions(fastsam_core, _FUNCTIONS)]
    for module, title in _MODULES.items():
        parts += [f"## {module.__name__}", title]
        names = getattr(module, "__all__", None) or _own_functions(module)
        functions = [name for name in names if inspect.isfunction(getattr(module, name))]
        parts += [_functions(module, functions)] if functions else []
        for name in names:
            if inspect.isclass(getattr(module, name)):
                parts += _class(getattr(module, name), f"{module.__name__}.{name}")
    return "\n\n".join(parts) + "\n"


def _options(config: type[Config], besides: type[Config] | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each option that has an effect; `besides` leaves out those that another class has alike."""
    known = {} if besides is None else {field.name: field.metadata["help"] for field in dataclasses.fields(besides)}
    for field in dataclasses.fields(config):
        meaning = field.metadata["help"]
        if "without effect" in meaning or known.get(field.name) == meaning or field.name in ("mode", "task"):
            continue
        aliases = [alias for alias, (name, _) in ALIASES.items() if name == field.name and besides is None]
        default = f"{field.default:.4g}" if isinstance(field.default, float) else str(field.default)
        yield f"`{field.name}`", f"`{default}`", meaning + (f" (also {_listed(aliases)})" if aliases else "")


def _class(described: type, name: str) -> list[str]:
    members = sorted(_members(described).items())
    rows = [(f"`{_call(member, value)}`", _summary(value)) for member, value in members]
    is_protocol = getattr(described, "_is_protocol", False)  # which nobody creates
    call = [] if is_protocol else [f"`{_call(described.__name__, described)}`"]
    # Without sections such as "Args:".
    text = [part for part in inspect.cleandoc(described.__doc__ or "").split("\n\n") if not re.match(r"\w+:\n", part)]
    parts = [f"### {name}", *call, *text]
    return [*parts, _table(("member", "summary"), rows)] if rows else parts


def _members(described: type) -> Mapping[str, Any]:
    """Return by name the methods and properties that are meant for users and do something."""
    found: dict[str, Any] = {}
    for owner in reversed(described.__mro__):
        for name, value in vars(owner).items() if owner.__module__.startswith("fastsam_core") else ():
            value = getattr(value, "__func__", value)  # of a class method or a static one
            if callable(value) or isinstance(value, property):
                found[name] = value
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_")
        and name not in _BETWEEN_MODULES
        and not _summary(value).startswith("Raise NotImplementedError")
    }


def _functions(module: ModuleType, names: Iterable[str]) -> str:
    functions = [(name, getattr(module, name)) for name in names]
    return _table(
        ("function", "summary"), [(f"`{_call(name, function)}`", _summary(function)) for name, function in functions]
    )


def _own_functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    ]


def _call(name: str, value: Any) -> str:
    """Return the name with its arguments and their defaults; a property's name alone."""
    if isinstance(value, property):
        return name
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name not in ("self", "cls") and not parameter.name.startswith("_")
    ]
    return f"{name}{inspect.Signature(parameters)}"


def _summary(value: Any) -> str:
    """Return the first paragraph of the docstring in one line."""
    return re.sub(r"\s+", " ", (inspect.getdoc(value) or "").partition("\n\n")[0])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(cell: str) -> str:
    """Keep Markdown from taking a bar for the end of the cell, and <name> outside of code for HTML."""
    parts = cell.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "\\<") for index, part in enumerate(parts))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write_text(PAGE, page())
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        print(page(), end="")
