"""Three forms of the mask decoder: three masks for each of 64 clicks on one image, their IoU alone, and one click.

"plain" is the reference's form in PyTorch: every prompt projects its own copy of the image tokens. "folded" shares
these computations between prompts, in PyTorch. "native" does the same in C++, fused by tiles. All run in one process
with the same number of threads. The number in brackets after each time is its ratio to the fastest of the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastsam_core.models import registry
from fastsam_core.models.decoder_folded import FoldedImage

CLICKS = 64


@pytest.fixture(scope="module", params=["sam_nano", "mobile_sam"])
def runs(request: pytest.FixtureRequest) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    model = registry.build(request.param).eval()
    grid, channels = model.image_size // 16, model.prompt_encoder.embed_dim
    embedding = torch.randn(1, channels, grid, grid)
    points, labels = torch.rand(CLICKS, 1, 2) * model.image_size, torch.ones(CLICKS, 1)

    @torch.inference_mode()
    def plain() -> Any:
        image = model.prepare(embedding)
        outputs = []
        for start in range(0, CLICKS, 8):
            sparse = model.prompt_encoder.sparse(points[start : start + 8], labels[start : start + 8], None)
            outputs.append(model.mask_decoder.predict_masks(image.embedding, image.position, sparse, image.no_mask))
        return outputs

    def prepared(native: bool) -> Any:
        image = model.prepare(embedding)
        if not native:
            image._image_decoder = FoldedImage(model.mask_decoder, image.embedding, image.position, image.no_mask)
        return image

    def masks(native: bool) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            return model.decode_prompts(prepared(native), points, labels, multimask_output=True)

        return run

    def iou(native: bool) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            return model.decode_points(prepared(native), points, labels, iou_threshold=float("inf"))

        return run

    one_click_runs = {}
    for native in (False, True):
        with torch.inference_mode():
            image = prepared(native)
            assert image.image_decoder

        def one_click(image: Any = image) -> Any:
            with torch.inference_mode():
                return model.decode_prompts(image, points[:1], labels[:1], multimask_output=True)

        one_click_runs["one click, native" if native else "one click, folded"] = one_click
    return {
        "plain": plain,
        "folded": masks(False),
        "native": masks(True),
        "IoU alone, folded": iou(False),
        "IoU alone, native": iou(True),
        **one_click_runs,
    }


VARIANTS = [
    "plain",
    "folded",
    "native",
    "IoU alone, folded",
    "IoU alone, native",
    "one click, folded",
    "one click, native",
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_decode_clicks(benchmark: Any, runs: dict[str, Callable[[], Any]], variant: str, request: Any) -> None:
    model = request.node.callspec.params["runs"]
    count = "one click" if variant.startswith("one") else f"{CLICKS} clicks"
    benchmark.group = f"{count}, {model}, {torch.get_num_threads()} threads"
    benchmark.pedantic(runs[variant], rounds=5, warmup_rounds=1)
