"""A predictor of the small model with an image set, and boxes in it, for the tests of the predictor."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsam_core import Predictor
from fastsam_core import rle as coco
from fastsam_core.models.sam_model import SamModel
from small_model import QUIET, bgr_image

HEIGHT, WIDTH = 60, 90
BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0], [50.0, 2.0, 76.0, 44.0]]
SIDE = QUIET["imgsz"] // 4


def read_only_image() -> np.ndarray:
    image = bgr_image(HEIGHT, WIDTH)
    image.flags.writeable = False
    return image


def predictor_with_image(model: SamModel) -> Predictor:
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.set_image(read_only_image())
    return predictor


def dense(result: Any) -> np.ndarray:
    return np.stack([coco.decode(one) for one in result.masks.rle]).astype(bool)
