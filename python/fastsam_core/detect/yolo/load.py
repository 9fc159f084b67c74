"""Loading a network of the family, with its class names and input size, by name, path or official address."""

from __future__ import annotations

import os
import re
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

_ASSETS_URL = "https://github.com/ultralytics/assets/releases/download"
_FASTSAM_FILES = ("FastSAM-s.pt", "FastSAM-x.pt")
# Official files by the release that has them.
_RELEASES = {
    "v8.2.0": (*(f"yolov8{size}{head}.pt" for head in ("", "-seg") for size in "nsmlx"), *_FASTSAM_FILES),
    "v8.3.0": (
        *(f"yolo11{size}{head}.pt" for head in ("", "-seg") for size in "nsmlx"),
        *(f"yolo12{size}.pt" for size in "nsmlx"),  # there are none for segmentation
    ),
    "v8.4.0": tuple(f"yolo26{size}{head}.pt" for head in ("", "-seg") for size in "nsmlx"),
}
# Official files and their addresses. No hashes of them are published: `find_checkpoint` records that of the first
# download.
OFFICIAL_URLS: dict[str, tuple[str, ...]] = {
    name: (f"{_ASSETS_URL}/{release}/{name}",) for release, names in _RELEASES.items() for name in names
}
# Other common names of these files.
_ALIASES = {"FastSAM.pt": "FastSAM-x.pt"}
# Patterns of names of other models, and what there is for them.
_HINTS = (
    ("world|yoloe", "YOLO-World and YOLOE aren't supported: SAM(...)(image, texts=['a dog']) finds objects by words"),
    ("^(mobile_?)?sam", "SAM(...) loads the models of Segment Anything"),
)
_DEFAULT_IMGSZ = 640
_FASTSAM_IMGSZ = 1024  # FastSAM was trained at this size and is used at it


@dataclass(frozen=True)
class LoadedNetwork:
    """A loaded network on its device, its class names, the default long side of its input, and its checkpoint."""

    network: Network
    names: dict[int, str]
    imgsz: int
    path: Path

    @cached_property
    def sha256(self) -> str:
        """sha256 of the checkpoint."""
        return sha256_of(self.path)


def load_network(model: str | os.PathLike[str], device: Any = "cpu") -> LoadedNetwork:
    """Load a network by official name (with ".pt" or without), path, or name of a file within `FASTSAM_HOME`.

    FileNotFoundError if there is no such file or name, ValueError if the file is something else, ConnectionError if a
    download fails.
    """
    torch_device = select_device(device)
    source = os.fspath(model)
    source = next((name for name in (_ALIASES.get(source, source), f"{source}.pt") if name in OFFICIAL_URLS), source)
    try:
        path = find_checkpoint(source, OFFICIAL_URLS)
    except FileNotFoundError as error:
        name = os.path.basename(source).lower()
        hint = next((hint for pattern, hint in _HINTS if re.search(pattern, name)), None)
        if hint is None:
            raise
        raise FileNotFoundError(f"{error} ({hint})") from None
    weights = read_weights(path)
    try:
        network = weights.build_network()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    default_imgsz = _FASTSAM_IMGSZ if path.name.lower().startswith("fastsam") else _DEFAULT_IMGSZ
    # Channels last takes 10 to 20 % less time on CPUs, and is what half precision on GPUs needs to be fast.
    convert_conv2d_weight_memory_format(network.to(torch_device), torch.channels_last)
    network.names = weights.class_names(network.architecture.num_classes)
    network.imgsz = weights.metadata.imgsz or default_imgsz
    return LoadedNetwork(network, network.names, network.imgsz, path)
