"""Photos of any size as input for benchmarks."""

from __future__ import annotations

import numpy as np
import pytest


def photo(width: int, height: int) -> np.ndarray:
    """Return the demo's photo resized to BGR uint8 (height, width, 3), with fine noise like that of a camera."""
    import cv2

    from fastsam_core import demo

    try:
        small = demo.photo()
    except FileNotFoundError:
        pytest.skip("scikit-image is not installed: its photo is measured on")
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).integers(-6, 7, large.shape, dtype=np.int16)
    return np.clip(large + grain, 0, 255).astype(np.uint8)
