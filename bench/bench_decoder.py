"""The folded mask decoder beside the plain one: three masks for each of 64 clicks on one image.

The plain decoder is the reference's form in PyTorch: every prompt projects its own copy of the image tokens. Both run
in one process with the same number of threads; the ratio is in brackets behind each figure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastsam_core.models import registry

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
        for part in range(0, CLICKS, 8):
            sparse = model.prompt_encoder.sparse(points[part : part + 8], labels[part : part + 8], None)
            outputs.append(model.mask_decoder(image.embedding, image.position, sparse, image.no_mask))
        return outputs

    @torch.inference_mode()
    def folded() -> Any:
        return model.decode_prompts(model.prepare(embedding), points, labels, multimask_output=True)

    @torch.inference_mode()
    def iou_first() -> Any:
        return model.decode_points(model.prepare(embedding), points, labels)

    return {"plain": plain, "folded": folded, "IoU alone": iou_first}


@pytest.mark.parametrize("way", ["plain", "folded", "IoU alone"])
def test_decode_clicks(benchmark: Any, runs: dict[str, Callable[[], Any]], way: str, request: Any) -> None:
    model = request.node.callspec.params["runs"]
    benchmark.group = f"{CLICKS} clicks, {model}, {torch.get_num_threads()} threads"
    benchmark.pedantic(runs[way], rounds=5, warmup_rounds=1)
