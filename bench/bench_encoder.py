"""The image encoders, compared with OpenVINO, ONNX Runtime and transformers with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastsam_core.models.precision import why_not_bfloat16

from .recipe import recipe_model
from .timing import RowCollector, interleaved_medians, max_difference, require_package

# Absolute difference allowed for float32 sums in another order; the outputs are of magnitude 1.
TOLERANCE = 1e-4


def peer_encoder(name: str, peer: str, bfloat16: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the image encoder of the recipe model `name` in a peer. Skips the benchmark if that isn't installed.

    bfloat16: let transformers or OpenVINO compute in bfloat16, OpenVINO in layers of its choice.
    """
    require_package({"openvino": "openvino", "onnxruntime": "onnxruntime", "transformers": "transformers"}[peer])
    if peer == "transformers":
        from .peers.transformers_sam import transformers_model

        dtype = torch.bfloat16 if bfloat16 else torch.float32
        vision: Any = transformers_model(recipe_model(name)).to(dtype).vision_encoder
        return lambda images: vision(images.to(dtype))[0]
    require_package("onnxscript")
    from .peers import runtimes
    from .peers.onnx_export import onnx_file

    file = onnx_file(name, "encoder")
    run = runtimes.openvino(file, bfloat16=bfloat16) if peer == "openvino" else runtimes.onnx_runtime(file)
    return lambda images: run(images)[0]


@pytest.mark.parametrize(
    ("name", "peer", "num_rounds"),
    [
        ("vit_b", "openvino", 3),
        ("vit_b", "onnxruntime", 2),
        ("vit_b", "transformers", 2),
        ("mobile_sam", "openvino", 5),
        ("mobile_sam", "onnxruntime", 5),
    ],
)
def test_encoder(rows: RowCollector, name: str, peer: str, num_rounds: int) -> None:
    registry_name = "sam_b" if name == "vit_b" else name
    model, theirs = recipe_model(registry_name), peer_encoder(registry_name, peer)
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = max_difference(model.encode_image(images), theirs(images))
        rounds = rows.rounds(num_rounds)
        seconds = interleaved_medians(
            {"ours": lambda: model.encode_image(images), "peer": lambda: theirs(images)}, rounds
        )
    rows.add(
        f"{name}_encoder/{peer}", (seconds["ours"], seconds["peer"]), rounds, difference=difference, tolerance=TOLERANCE
    )


@pytest.mark.skipif(why_not_bfloat16() != "", reason=why_not_bfloat16())
@pytest.mark.parametrize("peer", ["openvino", "transformers"])
def test_encoder_in_bfloat16(rows: RowCollector, peer: str) -> None:
    """Compare both in bfloat16. Our error against float32 must not exceed the peer's."""
    model, peers = recipe_model("sam_b"), peer_encoder("sam_b", peer, bfloat16=True)
    images = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))

    def ours() -> torch.Tensor:
        return model.encode_image(images, torch.bfloat16)

    def theirs() -> torch.Tensor:
        return peers(images)

    with torch.inference_mode():
        float32_embedding = model.encode_image(images)
        error, peer_error = (
            float((encode().float() - float32_embedding).norm() / float32_embedding.norm()) for encode in (ours, theirs)
        )
        rounds = rows.rounds(3)
        seconds = interleaved_medians({"ours": ours, "peer": theirs}, rounds)
    rows.add(
        f"vit_b_encoder_bfloat16/{peer}",
        (seconds["ours"], seconds["peer"]),
        rounds,
        difference=error,
        tolerance=peer_error,
        difference_of="relative error beside float32, at most the peer's",
    )
