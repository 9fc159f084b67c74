"""A network of the family with what belongs to it, from a name, a path or the official addresses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from ...device import select_device
from ...models.download import sha256_of
from ...models.locate import locate
from .network import Network
from .weights import read_weights

_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.2.0/"
_YOLO = tuple(f"yolov8{size}{head}.pt" for head in ("", "-seg") for size in "nsmlx")
_FASTSAM = ("FastSAM-s.pt", "FastSAM-x.pt")
# Official files and where they are published. No hashes of them are: `locate` keeps the first download's.
OFFICIAL: dict[str, tuple[str, ...]] = {name: (_ASSETS + name,) for name in (*_YOLO, *_FASTSAM)}
# Other names under which people know them.
_ALIASES = {"FastSAM.pt": "FastSAM-x.pt"}
_IMGSZ = 640
_FASTSAM_IMGSZ = 1024  # what FastSAM was trained and is used with


@dataclass(frozen=True)
class Loaded:
    """network: on its device. names: of all classes. imgsz: the input's long side to use where none is asked for."""

    network: Network
    names: dict[int, str]
    imgsz: int
    path: Path

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint."""
        return sha256_of(self.path)


def load(model: str | os.PathLike[str], device: Any = "cpu") -> Loaded:
    """Load an official name (with ".pt" or without), a path, or a file within `FASTSAM_HOME`.

    FileNotFoundError if there is no such file or name, ValueError for a file that is something else, ConnectionError if
    a download fails.
    """
    chosen = select_device(device)
    text = os.fspath(model)
    text = next((name for name in (_ALIASES.get(text, text), f"{text}.pt") if name in OFFICIAL), text)
    path = locate(text, OFFICIAL)
    weights = read_weights(path)
    try:
        network = weights.network()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    default = _FASTSAM_IMGSZ if path.name.lower().startswith("fastsam") else _IMGSZ
    # Channels last: a tenth to a fifth less time on CPUs, and what half precision on GPUs wants.
    convert_conv2d_weight_memory_format(network.to(chosen), torch.channels_last)
    network.names = weights.names(network.sizes.classes)
    return Loaded(network, network.names, weights.facts.imgsz or default, path)
