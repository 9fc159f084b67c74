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
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.stability_score_offset = 1.0
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
        masks, scores = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        scores = self.model.mask_scoring.predicted_iou(scores, masks)
        if self.use_stability_score:
            scores = self._stability(masks)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, point_coords.shape[1])
        upscaled = self.mask_postprocessing(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        areas = (upscaled > self.model.mask_threshold).sum((-2, -1))
        return upscaled, scores, self._stability(upscaled), areas, masks

    def _stability(self, logits: Tensor) -> Tensor:
        return calculate_stability_score(logits, self.model.mask_threshold, self.stability_score_offset)

    # The steps of Meta's class under their names, since subclasses call and override them.

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:  # (1, P, 2), (1, P) -> (1, P, C)
        return self.model.prompt_encoder.embed_points(point_coords, point_labels)

    def _embed_masks(self, input_mask: Tensor, has_mask_input: Tensor) -> Tensor:
        """Return what is added to the image embedding: (1, C, S / 16, S / 16)."""
        encoder = self.model.prompt_encoder
        return torch.lerp(encoder.dense(None), encoder.dense(input_mask), has_mask_input)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """Choose one of the masks (1, 4, h, w) by score (1, 4), with less than three points among the last three."""
        # Computed from the number of points instead of branching, because tracing would fix the branch.
        single = torch.arange(iou_preds.shape[1], device=iou_preds.device) == 0
        best = (iou_preds + 1000 * (num_points - 2.5) * single).argmax(1, keepdim=True)
        return masks.gather(1, best[..., None, None].expand(-1, -1, *masks.shape[2:])), iou_preds.gather(1, best)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Upscale logits like `Sam.postprocess_masks`, with sizes as tensors, so that they stay variable in a trace."""
        side = self.img_size
        height, width = self.resize_longest_image_size(orig_im_size, side)
        square = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        size: Any = tuple(orig_im_size.long())  # a tuple of tensors, for tracing
        return F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """Return (height, width) after scaling, each rounded half up: (2,) -> (2,) int64."""
        return (input_image_size * (longest_side / input_image_size.max()) + 0.5).floor().long()
