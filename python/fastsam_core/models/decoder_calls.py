"""Steps of `SamModel`'s decoding that need no model: its prompts, and running the decoder's forms on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._tensors import check_are_tensors
from .decoder_folded import FoldedImage
from .mask_decoder import MaskDecoder, TwoWayTransformer
from .native import has_hooks, has_original_methods
from .prepared_image import ImageDecoder, PreparedImage
from .prompt_encoder import PromptEncoder

# Prompts per call of the plain decoder, on a CPU and on a GPU. Each takes 4 MiB per copy of its image tokens.
_PLAIN_CHUNK_SIZE, _PLAIN_CHUNK_SIZE_ON_GPU = 8, 32


def _plain_chunk_size(tensor: Tensor) -> int:
    """Return how many prompts the plain decoder takes at a time on the tensor's device."""
    return _PLAIN_CHUNK_SIZE if tensor.is_cpu else _PLAIN_CHUNK_SIZE_ON_GPU


class PromptTensors(NamedTuple):
    """The prompts of N objects, as `SamModel.decode_prompts` describes them."""

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    def is_empty(self) -> bool:
        """Return whether there is no prompt, which isn't the same as prompts for no object."""
        return self.points is None and self.boxes is None and self.masks is None

    @property
    def num_objects(self) -> int:
        """N; 1 if there is no prompt."""
        return next((len(prompt) for prompt in (self.points, self.boxes, self.masks) if prompt is not None), 1)

    def check(self, image_size: int) -> None:
        """Raise ValueError unless the prompts have the right shapes for a model input of this size.

        Raises TypeError for anything but tensors.
        """
        check_are_tensors(**self._asdict())
        points, labels, boxes, masks = self
        side = image_size // 4
        if points is not None and (points.ndim != 3 or points.shape[2] != 2):
            raise ValueError(f"points must be (N, P, 2) x, y, not {tuple(points.shape)}")
        if points is not None and (labels is None or labels.shape != points.shape[:2]):
            given = None if labels is None else tuple(labels.shape)
            raise ValueError(f"labels must be one for each of the points, {tuple(points.shape[:2])}, not {given}")
        if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ValueError(f"boxes must be (N, 4) x1, y1, x2, y2, not {tuple(boxes.shape)}")
        if masks is not None and (masks.ndim != 4 or tuple(masks.shape[1:]) != (1, side, side)):
            raise ValueError(f"masks must be logits (N, 1, {side}, {side}), not {tuple(masks.shape)}")
        counts = [len(prompt) for prompt in (points, boxes, masks) if prompt is not None]
        if len(set(counts)) > 1:
            raise ValueError(f"prompts are for different numbers of objects: {counts}")


def decode_in_chunks(
    image: PreparedImage, encoder: PromptEncoder, prompts: PromptTensors, multimask_output: bool
) -> tuple[Tensor, Tensor]:
    """Decode by calls of the modules, some prompts at a time: logits (N, M, 4h, 4w) and predicted IoU (N, M).

    Hooks and methods of the user's get all prompts at once, as in Meta's predictor.
    """
    outputs, size = [], _plain_chunk_size(image.embedding)
    if _observes_calls(image.decoder, encoder):
        size = max(1, prompts.num_objects)
    for start in range(0, prompts.num_objects, size):
        points, labels, boxes, masks = (None if x is None else x[start : start + size] for x in prompts)
        sparse, dense = encoder(
            points=None if points is None or labels is None else (points, labels), boxes=boxes, masks=masks
        )
        logits, iou = image.decoder(
            image_embeddings=image.embedding,
            image_pe=image.position,
            sparse_prompt_embeddings=sparse.to(image.dtype),
            dense_prompt_embeddings=dense.to(image.dtype),
            multimask_output=multimask_output,
        )
        outputs.append((logits.float(), iou.float()))
    return torch.cat([logits for logits, _ in outputs]), torch.cat([iou for _, iou in outputs])


def _observes_calls(decoder: nn.Module, encoder: PromptEncoder) -> bool:
    """Return whether the modules have hooks or methods that may depend on which prompts they get together."""
    is_usual = (
        has_original_methods(encoder, PromptEncoder, "forward")
        and has_original_methods(decoder, MaskDecoder, "forward", "predict_masks")
        and has_original_methods(decoder.transformer, TwoWayTransformer, "forward")
        and not has_hooks(decoder, encoder)
    )
    return not is_usual


def decode_folded(folded: ImageDecoder, sparse: Tensor, multimask_output: bool) -> tuple[Tensor, Tensor]:
    """Decode tokens (N, T, C) by one of the faster forms: logits (N, M, 4h, 4w) and predicted IoU (N, M)."""
    tokens = [1, 2, 3] if multimask_output else [0]
    logits, ious = [], []
    # The native forms chunk prompts themselves and return all masks in one piece of memory.
    size = _plain_chunk_size(sparse) if isinstance(folded, FoldedImage) else len(sparse)
    for part in sparse.split(size):
        decoded = folded.decode(part, tokens)
        pairs = torch.cartesian_prod(torch.arange(len(part), device="cpu"), torch.tensor(tokens, device="cpu"))
        logits.append(decoded.logits(pairs[:, 0], pairs[:, 1]).float().unflatten(0, (len(part), -1)))
        ious.append(decoded.predicted_iou()[:, tokens[0] : tokens[-1] + 1].float())
    return (logits[0], ious[0]) if len(ious) == 1 else (torch.cat(logits), torch.cat(ious))
