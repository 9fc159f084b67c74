"""Files that contain a pickle, written to the current folder, for tests that read them without executing the pickle."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch


def untouched() -> bool:
    """Return whether no malicious pickle has run: each would create a file "executed" in the current folder."""
    return not os.path.exists("executed")


def saved(content: Any, name: str = "w.pt", zipped: bool = True) -> Path:
    torch.save(content, name, _use_new_zipfile_serialization=zipped)
    return Path(name)


def with_pickle(data: bytes, name: str = "w.pt") -> Path:
    """Write a zipped checkpoint whose pickle is `data`."""
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("w/data.pkl", data)
        archive.writestr("w/byteorder", b"little")
        archive.writestr("w/data/0", bytes(400))
    return Path(name)
