"""Environment variables that switch something on or off."""

from __future__ import annotations

import os


def read_switch(name: str) -> str:
    """Return the value of an environment variable: "1", "0", or "" if it isn't set. ValueError for any other."""
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name}={value}: it must be 1 or 0")
    return value
