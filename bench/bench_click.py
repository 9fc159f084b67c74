"""From a click on an encoded image to a full-size bool mask, compared with transformers.

Measured are a first click, and a second click that corrects the mask of the first.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastsam_core import Predictor
from fastsam_core.preprocess import resized_shape

from .photos import photo
from .recipe import recipe_model
from .timing import RowCollector, interleaved_medians, require_package

WIDTH, HEIGHT = 1800, 1200
CLICKS = ((900.0, 500.0), (1000.0, 700.0))
# Allowed fraction of differing pixels. Logits agree to 1e-5, so pixels with logits that close to 0 may differ.
TOLERANCE = 1e-4


@pytest.mark.parametrize("clicks", [1, 2])
def test_click(clicks: int, rows: RowCollector) -> None:
    require_package("transformers")
    from transformers import SamImageProcessorPil

    from .peers.transformers_sam import transformers_model

    model = recipe_model("sam_b")
    predictor = Predictor(overrides={"model": model, "conf": -1e9, "save": False, "verbose": False})
    predictor.set_image(photo(WIDTH, HEIGHT))
    peer, processor = transformers_model(model), SamImageProcessorPil()
    embedding = predictor.features
    original, resized = (HEIGHT, WIDTH), resized_shape(HEIGHT, WIDTH, model.image_size)
    scale = torch.tensor([resized[1] / WIDTH, resized[0] / HEIGHT])

    previous_masks = low_res = None
    if clicks > 1:
        previous_masks, _ = predictor.prompt_inference(points=list(CLICKS[0]), labels=[1])
        low_res = previous_masks[:, None]

    def ours() -> Any:
        masks = predictor(points=[CLICKS[:clicks]], labels=[[1] * clicks], masks=previous_masks)[0].masks
        assert masks is not None
        return masks.data

    @torch.inference_mode()
    def theirs() -> Any:
        points = (torch.tensor(CLICKS[:clicks]) * scale)[None, None]
        prompts = {"input_points": points, "input_labels": torch.ones(points.shape[:3], dtype=torch.long)}
        out = peer(image_embeddings=embedding, **prompts, input_masks=low_res, multimask_output=False)
        return processor.post_process_masks(out.pred_masks, [original], [resized])[0][0]

    our_mask, their_mask = torch.as_tensor(ours()), torch.as_tensor(theirs())
    assert our_mask.shape == their_mask.shape == (1, HEIGHT, WIDTH) and our_mask.dtype == torch.bool
    disagreement = float((our_mask != their_mask).float().mean())
    theirs()
    rounds = rows.rounds(15)
    seconds = interleaved_medians({"ours": ours, "peer": theirs}, rounds)
    rows.add(
        "click/transformers" if clicks == 1 else "click_with_mask/transformers",
        (seconds["ours"], seconds["peer"]),
        rounds,
        difference=disagreement,
        tolerance=TOLERANCE,
        difference_of="share of pixels that differ",
    )
