"""Progress bars of long work."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any


def progress_bar(iterable: Iterable[Any] | None = None, *, unit: str, show: bool | None = None, **settings: Any) -> Any:
    """Return tqdm's progress bar on stderr, or as a widget in a notebook.

    show: False hides the bar, and None too unless there is a terminal or a notebook. Without a stderr, as in a service
    or a windowed program, there is never one. settings: further arguments of `tqdm.tqdm`.
    """
    visible = sys.stderr is not None and (show or (show is None and (_in_notebook() or _on_terminal())))
    return _load_tqdm()(iterable, unit=unit, disable=not visible, **settings)


@lru_cache(maxsize=1)
def _load_tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of text
        from tqdm.auto import tqdm
    return tqdm


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # a replacement without this method, or a closed file
        return False


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
