"""`Sam`: a model with the arguments, attributes and methods of Meta's `Sam`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._tensors import check_are_tensors
from ...models.common import PIXEL_MEAN, PIXEL_STD, Normalisation
from ...models.mask_decoder import MaskDecoder
from ...models.module_cache import version_of
from ...models.native import inherits_methods, watch_methods
from ...models.prompt_encoder import PromptEncoder
from ...models.sam_model import SamModel
from ...models.wrappers import unwrapped
from ...sam import SAM


class Sam(SamModel):
    """A `SamModel` with the interface of Meta's `Sam`. `sam_model_registry` builds the official ones.

    Args:
        image_encoder: makes embeddings (B, C, S / 16, S / 16) from images (B, 3, S, S).
        prompt_encoder: `input_image_size` is S, and `image_embedding_size` is S / 16.
        mask_decoder: takes the arguments of `MaskDecoder`.
        pixel_mean: mean of the red, green and blue values, by which pixels are normalised; one value stands for all.
        pixel_std: their standard deviation.

    Raises:
        TypeError: `prompt_encoder` is none of this package's.
        ValueError: sizes that don't fit together.

    In addition to the modules it has `image_encoder.img_size`, `mask_threshold`, `image_format`, `pixel_mean`,
    `pixel_std`, `device`, `preprocess` and `postprocess_masks`. It can be called with a list of dicts.
    """

    image_format: str = "RGB"
    needs_prompt = False
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        if not isinstance(prompt_encoder, PromptEncoder):
            raise TypeError(f"prompt_encoder must be a PromptEncoder, not {type(prompt_encoder).__name__}")
        size, grid = prompt_encoder.image_size, prompt_encoder.grid_size
        encoder_size = getattr(image_encoder, "img_size", size)
        if not size == encoder_size == 16 * grid:
            raise ValueError(
                f"img_size of the image encoder, {encoder_size}, must be input_image_size of the prompt encoder, "
                f"{size}, and 16 times its image_embedding_size, {grid}"
            )
        super().__init__("sam", image_encoder, prompt_encoder, mask_decoder)
        image_encoder.img_size = size  # type: ignore[assignment]
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            tensor = torch.tensor(values, dtype=torch.float32, device=super().device).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self._set_normalisation(_floats(pixel_mean), _floats(pixel_std))

    @classmethod
    def from_model(cls, model: SamModel) -> Sam:
        """Return a `Sam` that shares the modules of a model but has its own input size."""
        prompt_encoder = copy.copy(model.prompt_encoder)  # since calls of `model` may set its input size
        size = model.default_image_size
        prompt_encoder.input_image_size, prompt_encoder.image_embedding_size = (size, size), (size // 16, size // 16)
        model.image_encoder.img_size = size  # type: ignore[assignment]
        sam = cls(model.image_encoder, prompt_encoder, model.mask_decoder, *model.normalisation)
        sam.name, sam.mask_scoring = model.name, model.mask_scoring
        return sam.train(model.training)

    @property
    def normalisation(self) -> Normalisation:
        """The values of `pixel_mean` and `pixel_std`."""
        _, states, values = self._normalisation
        if states != [_state(buffer) for buffer in (self.pixel_mean, self.pixel_std)]:  # changed by the user
            return self._set_normalisation(_floats(self.pixel_mean), _floats(self.pixel_std))
        return values

    def _set_normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
        """Remember the values of the buffers as they are now, since reading them from a GPU takes long."""
        buffers = self.pixel_mean, self.pixel_std  # kept alive, so that no other tensors get their ids
        self._normalisation = buffers, [_state(buffer) for buffer in buffers], (mean, std)
        return mean, std

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sam:
        """Convert or move as for any model. Images are normalised by the same float32 values as before."""
        values = self.normalisation
        super()._apply(fn, recurse)
        self._set_normalisation(*values)
        return self

    # `image_size` and `device` don't use the prompt encoder and the decoder as the base class does: some users delete
    # these to keep only the image encoder.

    @property
    def image_size(self) -> int:
        return self._size or self.image_encoder.img_size  # type: ignore[return-value]

    @image_size.setter
    def image_size(self, size: int) -> None:
        self.set_image_size(size)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _apply_image_size(self, size: int) -> None:
        super()._apply_image_size(size)
        self.image_encoder.img_size = size  # type: ignore[assignment]

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Predict masks of several images, each with its own prompts.

        batched_input: one dict per image, with `image` (3, h, w), RGB, scaled so that its long side is the input size S
        of the model, and `original_size` (H, W). Prompts are in pixels of the scaled image: `point_coords` (B, P, 2)
        with `point_labels` (B, P), `boxes` (B, 4), `mask_inputs` (B, 1, S / 4, S / 4). Without prompts B is 1.

        Returns one dict per image, with `masks` (B, C, H, W) bool at the original size, `iou_predictions` (B, C) and
        `low_res_logits` (B, C, S / 4, S / 4). C is 3 with `multimask_output`, else 1. Raises TypeError for images and
        prompts that aren't tensors, and ValueError for other shapes.
        """
        for record in batched_input:
            check_are_tensors(image=record["image"])
            if record["image"].ndim < 2:  # an overridden `preprocess` may take images without channels
                raise ValueError(f"image must be (3, h, w), not {tuple(record['image'].shape)}")
        images = [self.preprocess(record["image"]) for record in batched_input]
        embeddings = self.encode_preprocessed(torch.stack(images))
        outputs = []
        for record, embedding in zip(batched_input, embeddings, strict=True):
            low_res, predicted_iou = self.decode_prompts(
                embedding[None],
                record.get("point_coords"),
                record.get("point_labels"),
                rows_of_boxes(record.get("boxes")),
                record.get("mask_inputs"),
                multimask_output,
            )
            masks = self.postprocess_masks(low_res, tuple(record["image"].shape[-2:]), record["original_size"])
            outputs.append(
                {"masks": masks > self.mask_threshold, "iou_predictions": predicted_iou, "low_res_logits": low_res}
            )
        return outputs

    def encode_preprocessed(self, images: Tensor) -> Tensor:
        """Encode what `preprocess` returns: (B, 3, S, S), or what a subclass or an encoder of the user's agree on."""
        side = self.image_size
        usual = images.shape[1:] == (3, side, side) and inherits_methods(type(self), Sam, "encode_image")
        embedding: Tensor = self.encode_image(images) if usual else self.image_encoder(images)
        return embedding

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


def rows_of_boxes(boxes: Tensor | None) -> Tensor | None:
    """Return boxes in any shape, such as (1, B, 4), as (B, 4).

    Raises TypeError for anything but a tensor, ValueError unless it has a multiple of four numbers.
    """
    check_are_tensors(boxes=boxes)
    if boxes is None:
        return None
    if boxes.numel() % 4:
        raise ValueError(f"boxes must be (B, 4) x1, y1, x2, y2, not {tuple(boxes.shape)}")
    return boxes.reshape(-1, 4)


# Methods that Meta's class doesn't have, so a subclass may use their names for its own.
ADDED_METHODS = ("encode_image", "prepare", "decode_prompts", "decode_points")
watch_methods(Sam, names=("preprocess", "postprocess_masks", *ADDED_METHODS))

# What `SamPredictor` uses of a model that isn't a `Sam`.
_PARTS = ("image_encoder", "prompt_encoder", "mask_decoder", "preprocess", "postprocess_masks", "mask_threshold")


def as_sam(model: Any) -> Sam:
    """Return any model of this package, or one in a wrapper, as a `Sam`.

    A module that has the parts and methods of Meta's `Sam` is returned as it is. Raises TypeError for anything else.
    """
    model = model.model if isinstance(model, SAM) else unwrapped(model)
    if isinstance(model, Sam):
        return model
    if isinstance(model, SamModel):
        return Sam.from_model(model)
    if isinstance(model, nn.Module) and all(hasattr(model, name) for name in _PARTS):
        return cast(Sam, model)
    raise TypeError(f"a model made by sam_model_registry or SAM is needed, not {type(model).__name__}")


def _state(buffer: Tensor) -> Any:
    """Return the values of a buffer on the CPU, where they may have been changed through `.data`, else its version."""
    return buffer.flatten().tolist() if buffer.is_cpu else (id(buffer), version_of(buffer))


def _floats(values: Tensor | Sequence[float]) -> tuple[float, ...]:
    """Return the values of the channels as Python's floats: those of float32 with as few digits as identify them."""
    if isinstance(values, Tensor):
        values = values.flatten().tolist()
    return tuple(float(str(np.float32(value))) for value in values) * (3 if len(values) == 1 else 1)
