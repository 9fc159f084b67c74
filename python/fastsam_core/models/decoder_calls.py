"""Steps of `SamModel`'s decoding that need no model: checking prompts, and running the decoder's forms on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .decoder_folded import FoldedImage
from .prepared_image import ImageDecoder, PreparedImage

# Prompts per call of the plain decoder, on a CPU and on a GPU. Each takes 4 MiB per copy of its image tokens.
_PLAIN_CHUNK_SIZE, _PLAIN_CHUNK_SIZE_ON_GPU = 8, 32


def _plain_chunk_size(tensor: Tensor) -> int:
    """Return how many prompts the plain decoder takes at a time on the tensor's device."""
    return _PLAIN_CHUNK_SIZE if tensor.is_cpu else _PLAIN_CHUNK_SIZE_ON_GPU


def check_prompts(
    image_size: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
) -> None:
    """Raise ValueError unless the prompts have the shapes that `SamModel.decode_prompts` describes."""
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
    image: PreparedImage, embed: Callable[[slice], tuple[Tensor, Tensor]], count: int, multimask_output: bool
) -> tuple[Tensor, Tensor]:
    """Decode `count` prompts by calls of the decoder module: logits (count, M, 4h, 4w), predicted IoU (count, M).

    embed: returns the sparse and dense embeddings of a chunk of prompts.
    """
    outputs, size = [], _plain_chunk_size(image.embedding)
    for start in range(0, count, size):
        sparse, dense = embed(slice(start, min(start + size, count)))
        logits, iou = image.decoder(
            image_embeddings=image.embedding,
            image_pe=image.position,
            sparse_prompt_embeddings=sparse.to(image.dtype),
            dense_prompt_embeddings=dense.to(image.dtype),
            multimask_output=multimask_output,
        )
        outputs.append((logits.float(), iou.float()))
    return torch.cat([logits for logits, _ in outputs]), torch.cat([iou for _, iou in outputs])


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
