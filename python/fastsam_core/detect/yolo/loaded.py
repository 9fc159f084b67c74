"""Loading a network of the family, with its class names and input size, by name, path or official address."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from ...device import select_device
from ...models.checkpoint_paths import find_checkpoint
from ...models.download import sha256_of
from .network import Network
from .weights import read_weights

_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.2.0/"
_YOLO = tuple(f"yolov8{size}{head}.pt" for head in ("", "-seg") for size in "nsmlx")
_FASTSAM = ("FastSAM-s.pt", "FastSAM-x.pt")
# Official files and their addresses. No hashes of them are published: `find_checkpoint` records that of the first
# download.
OFFICIAL: dict[str, tuple[str, ...]] = {name: (_ASSETS + name,) for name in (*_YOLO, *_FASTSAM)}
# Other common names of these files.
_ALIASES = {"FastSAM.pt": "FastSAM-x.pt"}
_IMGSZ = 640
_FASTSAM_IMGSZ = 1024  # FastSAM was trained at this size and is used at it


@dataclass(frozen=True)
class Loaded:
    """A loaded network on its device, its class names, the default long side of its input, and its checkpoint."""

    network: Network
    names: dict[int, str]
    imgsz: int
    path: Path

    @cached_property
    def sha256(self) -> str:
        """sha256 of the checkpoint."""
        return sha256_of(self.path)


def load(model: str | os.PathLike[str], device: Any = "cpu") -> Loaded:
    """Load a network by official name (with ".pt" or without), path, or name of a file within `FASTSAM_HOME`.

    FileNotFoundError if there is no such file or name, ValueError if the file is something else, ConnectionError if a
    download fails.
    """
    chosen = select_device(device)
    text = os.fspath(model)
    text = next((name for name in (_ALIASES.get(text, text), f"{text}.pt") if name in OFFICIAL), text)
    path = find_checkpoint(text, OFFICIAL)
    weights = read_weights(path)
    try:
        network = weights.network()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    default = _FASTSAM_IMGSZ if path.name.lower().startswith("fastsam") else _IMGSZ
    # Channels last takes 10 to 20 % less time on CPUs, and is what half precision on GPUs needs to be fast.
    convert_conv2d_weight_memory_format(network.to(chosen), torch.channels_last)
    network.names = weights.names(network.sizes.classes)
    return Loaded(network, network.names, weights.facts.imgsz or default, path)
