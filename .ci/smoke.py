"""A first use of an installed wheel. Run outside the source tree, with the tree's path as the only argument."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fastsam_core
from fastsam_core.ops import nms, why

tree = Path(sys.argv[1]).resolve()
package = Path(fastsam_core.__file__).resolve()
assert not package.is_relative_to(tree), f"{package} is the source tree, not the wheel"
assert fastsam_core.__version__ == importlib.metadata.version("fastsam_core")

boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
assert why("nms", boxes)["cpu"] == "", f"the compiled operations aren't served: {why('nms', boxes)}"
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]

image = np.full((240, 320, 3), 60, np.uint8)
image[60:180, 40:140] = (220, 60, 40)
image[100:220, 190:290] = (40, 120, 230)
Image.fromarray(image).save("image.png")

result = fastsam_core.SAM("sam_nano.pt")("image.png", bboxes=[[40, 60, 140, 180]])[0]
assert result.masks is not None and len(result.masks) == 1
mask = result.masks.data[0].numpy()
truth = np.zeros(mask.shape, bool)
truth[60:180, 40:140] = True
overlap = (mask & truth).sum() / (mask | truth).sum()
assert overlap > 0.5, f"the mask of a plain rectangle overlaps it by {overlap:.2f} only"

everything = fastsam_core.SAM("sam_nano.pt")("image.png")[0]
print(f"smoke test: {package.parent}, box mask IoU {overlap:.2f}, {len(everything)} masks in everything mode")
