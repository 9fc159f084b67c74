"""Meta's `segment_anything` 1.0 with the weights of one of our models, so that outputs can be compared."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsam_core import ops
from fastsam_core.models.sam_model import SamModel


@contextmanager
def _torchvision_stub() -> Iterator[None]:
    """Let `segment_anything` be imported without torchvision, whose CPU build is not on every package index.

    It uses four functions: resizing, which torchvision leaves to Pillow, a conversion, the area of boxes, and NMS, for
    which our faster one stands in. All of that is in the peer's favour, and next to nothing of its time.
    """
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms")
    modules = {name: ModuleType(name) for name in (*names, "torchvision.transforms.functional")}
    vars(modules["torchvision.ops.boxes"]).update(batched_nms=ops.batched_nms, box_area=_box_area)
    vars(modules["torchvision.transforms.functional"]).update(resize=_resize, to_pil_image=_to_pil_image)
    sys.modules.update(modules)
    try:
        yield
    finally:
        # Other packages ask whether torchvision is there.
        for name in modules:
            del sys.modules[name]


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _to_pil_image(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _resize(image: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def generate(model: SamModel, **options: Any) -> Any:
    """Return `SamAutomaticMaskGenerator(...).generate` of a `sam_b` that shares `model`'s tensors.

    options: those of the generator. Masks come as uncompressed RLE, the form that is the fastest to make.
    """
    with _torchvision_stub():
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
    peer = sam_model_registry["vit_b"]()
    peer.load_state_dict(model.state_dict(), assign=True)
    generator = SamAutomaticMaskGenerator(peer.eval(), output_mode="uncompressed_rle", **options)
    return torch.inference_mode()(generator.generate)
