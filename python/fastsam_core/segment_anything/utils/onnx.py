"""`SamOnnxModel`: prompt encoder, decoder and upscaling as one module, for `torch.onnx.export(..., dynamo=False)`.

Export the image encoder by itself, within `torch.no_grad()`. With gradients enabled, PyTorch's newer exporter
(`dynamo=True`) decomposes the encoder's attention and fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import Sam
from .amg import calculate_stability_score


class SamOnnxModel(nn.Module):
    """Predicts masks of one prompt from an image embedding, in a form that can be traced.

    return_single_mask: return one of the four masks. With fewer than three points (a box is two, and a padding point
    counts) that is the best of the three for ambiguous prompts, else the one for unambiguous prompts.
    use_stability_score: score masks by stability instead of predicted IoU. return_extra_metrics: see `forward`. Unlike
    elsewhere, masks of a box aren't confined to the box for models that ask for it, such as `sam_nano`
    (`MaskScoring.within_box`).
    """

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.return_extra_metrics = return_extra_metrics

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict M masks of one prompt; M is 1 with `return_single_mask`, else 4.

        Args:
            image_embeddings: (1, C, S / 16, S / 16).
            point_coords: (1, P, 2) x, y in pixels of the model's input.
            point_labels: (1, P): 1 and 0 for foreground and background clicks, 2 and 3 for the corners of a box.
                Without a box, the last point must be padding: label -1 at (0, 0).
            mask_input: (1, 1, S / 4, S / 4) logits, ignored if `has_mask_input` is 0.
            has_mask_input: (1,) 1 or 0.
            orig_im_size: (2,) H, W.

        Returns:
            Logits (1, M, H, W), scores (1, M), then with `return_extra_metrics` stability scores and areas at full
            size, both (1, M), and last the low-resolution logits (1, M, S / 4, S / 4).
        """
        encoder, threshold = self.model.prompt_encoder, self.model.mask_threshold
        masks, scores = self.model.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=encoder.embed_points(point_coords, point_labels),
            dense_prompt_embeddings=torch.lerp(encoder.dense(None), encoder.dense(mask_input), has_mask_input),
        )
        scores = self.model.mask_scoring.predicted_iou(scores, masks)
        if self.use_stability_score:
            scores = calculate_stability_score(masks, threshold, 1.0)
        if self.return_single_mask:
            # Computed from the number of points instead of branching, because tracing would fix the branch.
            single = torch.arange(scores.shape[1], device=scores.device) == 0
            best = (scores + 1000 * (point_labels.shape[1] - 2.5) * single).argmax(1, keepdim=True)
            scores = scores.gather(1, best)
            masks = masks.gather(1, best[..., None, None].expand(-1, -1, *masks.shape[2:]))
        upscaled = self._upscale(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        areas = (upscaled > threshold).sum((-2, -1))
        return upscaled, scores, calculate_stability_score(upscaled, threshold, 1.0), areas, masks

    def _upscale(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Upscale logits like `Sam.postprocess_masks`, with sizes as tensors, so that they stay variable in a trace."""
        side = self.model.image_size
        height, width = (orig_im_size * (side / orig_im_size.max()) + 0.5).floor().long()
        square = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        size: Any = tuple(orig_im_size.long())  # a tuple of tensors, for tracing
        return F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)
