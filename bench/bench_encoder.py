"""The image encoders beside the same weights in OpenVINO, ONNX Runtime and transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .interleave import Rows, max_difference, medians, need
from .recipe import recipe_model

# float32 sums in another order; the outputs are of size 1.
TOLERANCE = 1e-4


def peer_encoder(name: str, peer: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The image encoder of the recipe model `name` in another implementation; skips where that isn't installed."""
    need({"openvino": "openvino", "onnxruntime": "onnxruntime", "transformers": "transformers"}[peer])
    if peer == "transformers":
        from .peers.transformers_sam import transformers_model

        vision: Any = transformers_model(recipe_model(name)).vision_encoder
        return lambda images: vision(images)[0]
    need("onnxscript")
    from .peers import runtimes
    from .peers.onnx_export import onnx_file

    run = (runtimes.openvino if peer == "openvino" else runtimes.onnx_runtime)(onnx_file(name, "encoder"))
    return lambda images: run(images)[0]


@pytest.mark.parametrize(
    ("name", "peer", "wanted"),
    [
        ("vit_b", "openvino", 3),
        ("vit_b", "onnxruntime", 2),
        ("vit_b", "transformers", 2),
        ("mobile_sam", "openvino", 5),
        ("mobile_sam", "onnxruntime", 5),
    ],
)
def test_encoder(rows: Rows, name: str, peer: str, wanted: int) -> None:
    registered = "sam_b" if name == "vit_b" else name
    model, theirs = recipe_model(registered), peer_encoder(registered, peer)
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = max_difference(model.encode_image(images), theirs(images))
        rounds = rows.rounds(wanted)
        spent = medians({"ours": lambda: model.encode_image(images), "peer": lambda: theirs(images)}, rounds)
    rows.add(
        f"{name}_encoder/{peer}", (spent["ours"], spent["peer"]), rounds, difference=difference, tolerance=TOLERANCE
    )
