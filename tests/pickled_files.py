"""Files with a pickle in them, in the current folder, for the tests that read such without running them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch


def untouched() -> bool:
    """Whether no attack has been executed in the current folder."""
    return not os.path.exists("executed")


def saved(content: Any, name: str = "w.pt", zipped: bool = True) -> Path:
    torch.save(content, name, _use_new_zipfile_serialization=zipped)
    return Path(name)


def with_pickle(data: bytes, name: str = "w.pt") -> Path:
    """A checkpoint whose description is `data`."""
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr("w/data.pkl", data)
        archive.writestr("w/byteorder", b"little")
        archive.writestr("w/data/0", bytes(400))
    return Path(name)
