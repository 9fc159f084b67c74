"""`Sam`: a model with the attributes and methods of Meta's `Sam`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.prepared_image import PreparedImage
from ...models.sam_model import IndexList, SamModel
from ...preprocess import PIXEL_MEAN, PIXEL_STD
from ...sam import SAM


class Sam(SamModel):
    """A `SamModel` with the interface of Meta's `Sam`. It shares the modules of the model it is made from.

    In addition to the encoders and the decoder it has `image_encoder.img_size`, `mask_threshold`, `image_format`,
    `pixel_mean`, `pixel_std`, `device`, `preprocess` and `postprocess_masks`. It can be called with a list of dicts.
    """

    image_format: str = "RGB"
    needs_prompt = False
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: SamModel) -> None:
        encoder = copy.copy(model.prompt_encoder)  # a copy, since calls of `model` may set its input size
        super().__init__(model.name, model.image_encoder, encoder, model.mask_decoder)
        self.mask_scoring = model.mask_scoring
        self.set_image_size(model.default_image_size)
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            tensor = torch.tensor(values, dtype=torch.float32, device=model.device).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self.train(model.training)

    # `image_size` and `device` don't use the prompt encoder and the decoder as the base class does: some users delete
    # these to keep only the image encoder.

    @property
    def image_size(self) -> int:
        return self._size or self.image_encoder.img_size  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _apply_image_size(self, size: int) -> None:
        super()._apply_image_size(size)
        self.image_encoder.img_size = size  # type: ignore[assignment]

    def decode_points(
        self, embedding: Tensor | PreparedImage, points: Tensor, labels: Tensor, iou_threshold: float | None = None
    ) -> tuple[Tensor, Callable[[IndexList, IndexList], Tensor]]:
        """Like the base method, but subtract `mask_threshold` from logits, as segment everything thresholds at 0."""
        iou, logits = super().decode_points(embedding, points, labels, iou_threshold)
        if self.mask_threshold == 0:
            return iou, logits
        return iou, lambda point_index, mask_index: logits(point_index, mask_index) - self.mask_threshold

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Predict masks of several images, each with its own prompts.

        batched_input: one dict per image, with `image` (3, h, w), RGB, scaled so that its long side is the input size S
        of the model, and `original_size` (H, W). Prompts are in pixels of the scaled image: `point_coords` (B, P, 2)
        with `point_labels` (B, P), `boxes` (B, 4), `mask_inputs` (B, 1, S / 4, S / 4). Without prompts B is 1.

        Returns one dict per image, with `masks` (B, C, H, W) bool at the original size, `iou_predictions` (B, C) and
        `low_res_logits` (B, C, S / 4, S / 4). C is 3 with `multimask_output`, else 1.
        """
        embeddings = self.encode_image(torch.stack([self.preprocess(record["image"]) for record in batched_input]))
        outputs = []
        for record, embedding in zip(batched_input, embeddings, strict=True):
            boxes = record.get("boxes")
            low_res, predicted_iou = self.decode_prompts(
                embedding[None],
                record.get("point_coords"),
                record.get("point_labels"),
                None if boxes is None else boxes.reshape(-1, 4),
                record.get("mask_inputs"),
                multimask_output,
            )
            masks = self.postprocess_masks(low_res, tuple(record["image"].shape[-2:]), record["original_size"])
            outputs.append(
                {"masks": masks > self.mask_threshold, "iou_predictions": predicted_iou, "low_res_logits": low_res}
            )
        return outputs

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Upscale logits (B, C, S / 4, S / 4) to (B, C, H, W).

        They are first upscaled to the model's input (S, S), whose padding beyond `input_size` is then cropped.
        """
        side = self.image_size
        square = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        content = square[..., : input_size[0], : input_size[1]]
        return F.interpolate(content, tuple(original_size), mode="bilinear", align_corners=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise pixels (..., 3, h, w), then zero-pad them at the right and bottom to (..., 3, S, S)."""
        x = (x - self.pixel_mean) / self.pixel_std
        height, width = x.shape[-2:]
        return F.pad(x, (0, self.image_size - width, 0, self.image_size - height))


def as_sam(model: Any) -> Sam:
    """Return any model of this package as a `Sam`. Raises TypeError for anything else."""
    if isinstance(model, Sam):
        return model
    if isinstance(model, SAM):
        return Sam(model.model)
    if isinstance(model, SamModel):
        return Sam(model)
    raise TypeError(f"a model made by sam_model_registry or SAM is needed, not {type(model).__name__}")
