"""From a photo to the model's input, compared with Pillow plus PyTorch and with OpenCV, in one process.

"reference" resizes with Pillow, then normalises and pads with PyTorch. "opencv" resizes by area, OpenCV's only
antialiased method, and normalises with NumPy; its pixels differ from the others', so its time is only a rough guide.
The number in brackets after each time is its ratio to the fastest of the group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import ops
from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD, resized_shape

SIZE = 1024


def opencv(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    import cv2

    small = cv2.resize(image.numpy(), (width, height), interpolation=cv2.INTER_AREA)
    out = np.zeros((1, SIZE, SIZE, 3), np.float32)
    out[0, :height, :width] = (small - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("peer", ["opencv", *ops.siblings("preprocess_image")])
@pytest.mark.parametrize(("width", "height"), [(1800, 1200), (6000, 4000)])
def test_preprocess(benchmark: Any, width: int, height: int, peer: str) -> None:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    new_height, new_width = resized_shape(height, width, SIZE)
    arguments = (image, new_height, new_width, SIZE, PIXEL_MEAN, PIXEL_STD)
    benchmark.group = f"preprocess {width} x {height} to {SIZE}, {torch.get_num_threads()} threads"
    if peer == "opencv":
        benchmark.pedantic(opencv, arguments[:3], rounds=5, warmup_rounds=1)
        return
    result = benchmark.pedantic(ops.siblings("preprocess_image")[peer], arguments, rounds=7, warmup_rounds=1)
    expected = ops.siblings("preprocess_image")["reference"](*arguments)
    assert result.numpy().tobytes() == expected.numpy().tobytes()
