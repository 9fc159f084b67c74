"""The optional package transformers, imported where it is used."""

from __future__ import annotations

import importlib
from typing import Any


def require_transformers(purpose: str) -> Any:
    """The module; ImportError that says what it is needed for and how to get it."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package transformers: pip install 'fastsam_core[text]' ({error})"
        ) from error
