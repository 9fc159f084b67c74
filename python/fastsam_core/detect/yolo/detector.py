"""`YoloDetector`: a YOLO network as a detector of boxes for SAM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config import DetectConfig
from ...device import select_device
from ...stopwatch import Stopwatch
from ..protocol import Detections
from .load import LoadedNetwork, load_network
from .runner import ImageObjects, detect_objects


class YoloDetector:
    """A `Detector` with a network of YOLOv8, YOLO11, YOLO12 or YOLO26; see `load_detector` for the arguments.

    Thread-safe. `fingerprint` depends on the checkpoint's sha256 and the settings, but not on its path or the device.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedNetwork,
        *,
        conf: float | None = None,
        iou: float | None = None,
        imgsz: int | Sequence[int] | None = None,
        max_det: int | None = None,
        classes: Sequence[int] | int | None = None,
        device: Any = "",
    ) -> None:
        options = {"conf": conf, "iou": iou, "imgsz": imgsz, "max_det": max_det, "classes": classes}
        self.config = DetectConfig().updated(options)  # refuses bad values before a model is loaded
        if isinstance(model, LoadedNetwork):
            self.loaded = model
            self.loaded.network.to(select_device(device, current=next(model.network.parameters()).device))
        else:
            self.loaded = load_network(model, device)
        self.names = self.loaded.network.names

    @property
    def input_hw(self) -> tuple[int, int]:
        """(height, width) that the input is scaled to fit into."""
        imgsz = self.loaded.imgsz
        return self.config.imgsz or DetectConfig(imgsz=imgsz).imgsz

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the boxes may: hash of the checkpoint, and settings."""
        config = self.config
        settings = f"conf={config.conf:g} iou={config.iou:g} imgsz={self.input_hw} max_det={config.max_det}"
        family = self.loaded.network.architecture.family.name.lower()
        return f"{family} sha256={self.loaded.sha256} {settings} classes={config.classes}"

    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        """Return the boxes of one image, (H, W, 3) uint8 BGR, best first."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return the boxes of each image, in order. Images with equal input shapes form one batch of the network."""
        image_objects = detect_objects(
            self.loaded.network, images, self.config, self.input_hw, Stopwatch(), with_masks=False
        )
        return [self._to_detections(objects) for objects in image_objects]

    def _to_detections(self, objects: ImageObjects) -> Detections:
        rows = objects.rows.cpu().numpy()
        return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), dict(self.names))
