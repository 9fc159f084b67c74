"""The mask decoder for inference on a GPU, from the image features of `decoder_features`.

As in `decoder_tiled`, no prompt has image tokens of its own. Here each pass is a few launches on the current stream for
all prompts of a call, and masks are made when they are requested. Nothing waits for the GPU. In half precision the work
on the tokens between the passes is a chain of launches as well; even for one prompt, `FoldedImage` takes more than
twice as long. In float32 PyTorch does that work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..ops._decoder.chain import Chain, can_run_chain
from ..ops._decoder.layouts import TOKENS
from ..ops._decoder.upscaler import Upscaler, can_upscale
from ..ops._native_cuda import log_pytorch_fallback
from ..ops.schema import why_not_cuda
from .decoder_chunk import Chunk
from .decoder_features import ImageFeatures, PreparedDecoder, compute_features, prepare_decoder
from .decoder_folded import DecodedPrompts, FoldedImage
from .decoder_widened import count_copies, repeat_channels
from .mask_decoder import NUM_MASK_TOKENS, MaskDecoder
from .native import can_use_cuda_kernels

# Prompts decoded together in half precision; their coefficients take 0.9 MiB each at 64 x 64. Half as many in float32.
PROMPTS_PER_CHUNK = 1024
_OPS = ("decoder_first_token_to_image", "decoder_first_pass", "decoder_second_pass", "decoder_upscale")


def can_use_decoder_kernels(decoder: MaskDecoder, embedding: Tensor, *others: Tensor) -> bool:
    """Return whether the kernels can run this decoder on this image.

    If they can't although the image is on a GPU, the reason is logged once. With gradients enabled they are never used.
    """
    if not embedding.is_cuda or torch.is_grad_enabled():
        return False
    if not can_use_cuda_kernels(embedding, *others):
        log_pytorch_fallback(
            why_not_cuda("decoder_first_pass", embedding) or "the decoder's tensors differ in dtype or device"
        )
        return False
    if torch.is_autocast_enabled("cuda"):
        log_pytorch_fallback("the decoder's kernels take tensors of one dtype, and autocast may ask for another")
        return False
    reason = next((reason for op in _OPS if (reason := why_not_cuda(op, embedding))), "")
    if not reason and not count_copies(decoder):
        reason = "no kernel supports a decoder of these sizes"
    if reason:
        log_pytorch_fallback(reason)
    return not reason


def prompts_per_chunk(dtype: torch.dtype) -> int:
    """Return how many prompts are decoded together in `dtype`."""
    return PROMPTS_PER_CHUNK * 2 // dtype.itemsize


class GpuImage:
    """Tensors that the decoder needs of one image, computed once for all its prompts.

    The arguments are those of `FoldedImage`.
    """

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, position: Tensor, dense: Tensor) -> None:
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        self._inputs = embedding, position, dense
        self._folded: FoldedImage | None = None

    @property
    def features(self) -> ImageFeatures:
        """Features of the image, computed at first use."""
        return self._prepared[0]

    @cached_property
    def _prepared(self) -> tuple[ImageFeatures, PreparedDecoder]:
        """The image's features and the prepared decoder that they were made with."""
        embedding, position, dense = self._inputs
        prepared = prepare_decoder(self.decoder, for_gpu=True)
        source = (embedding.float() + dense.float())[0].flatten(1).T  # (L, C)
        source = repeat_channels(source, prepared.copies).contiguous()
        image_features = compute_features(
            prepared.weights, source, prepared.project_position(position), embedding.dtype
        )
        return image_features, prepared

    def decode(
        self, sparse: Tensor, masks: Sequence[int] = (), iou_threshold: float | None = None
    ) -> GpuPrompts | DecodedPrompts:
        """Decode prompt tokens (N, T, C).

        masks: mask tokens in [0, 4) that will be requested; all of them if empty. iou_threshold: as in
        `TiledImage.decode`, ignored here. Prompts with more tokens than the kernels support are decoded by PyTorch.
        """
        if sparse.shape[1] + 1 + NUM_MASK_TOKENS > TOKENS:
            log_pytorch_fallback(f"the decoder's kernels take prompts of at most {TOKENS - 1 - NUM_MASK_TOKENS} tokens")
            if self._folded is None:
                self._folded = FoldedImage(self.decoder, *self._inputs)
            return self._folded.decode(sparse, masks, iou_threshold)
        decoded = GpuPrompts(self, sparse, masks)
        for chunk in decoded.chunks[:1] if masks else ():
            self._upscaler_for(chunk)  # prepared while the GPU is busy decoding
        return decoded

    def decode_chunk(self, sparse: Tensor, masks: Sequence[int]) -> Chunk:
        """Decode prompt tokens (n, T, C), as far as these mask tokens need it; all mask tokens if `masks` is empty."""
        image_features, prepared = self._prepared
        weights, widened_sparse = image_features.weights, repeat_channels(sparse, prepared.copies)
        if can_run_chain(
            widened_sparse, 1 + NUM_MASK_TOKENS, weights.token_sizes, weights.heads, weights.token_weights.dtype
        ):
            return Chunk(widened_sparse, image_features, masks, sparse.new_empty, self._chain)
        return Chunk(
            repeat_channels(self.decoder.tokens(sparse), prepared.copies),
            image_features,
            masks,
            sparse.new_empty,
        )

    def upscale(self, chunk: Chunk, index: Tensor, masks: Tensor, out: Tensor) -> None:
        """Write the logits of mask `masks[i]` of prompt `index[i]` of a chunk into out[i], float32.

        index, masks: CPU tensors.
        """
        indices = index.numpy(), masks.numpy()
        chunk.upscale(self._prepared[1].upscaling, *indices, self.grid, out, self._upscaler_for(chunk))

    def _upscaler_for(self, chunk: Chunk) -> Upscaler | None:
        """Return the image's upscaler, or None if it can't take this chunk."""
        image_features, prepared = self._prepared
        weights = image_features.weights
        fits = can_upscale(
            chunk.state, weights.token_sizes.width, len(prepared.upscaling.norm_weight), weights.mask_sizes
        )
        return self._upscaler if fits else None

    @cached_property
    def _chain(self) -> Chain:
        """The kernel chain that decodes prompts on this image."""
        image_features, prepared = self._prepared
        weights, output = image_features.weights, repeat_channels(self.decoder.output_tokens(), prepared.copies)
        decoder_args = weights.constant, weights.eps, weights.heads
        return Chain(
            output,
            weights.token_weights,
            weights.token_sizes,
            image_features.parts,
            *decoder_args,
            image_features.length,
        )

    @cached_property
    def _upscaler(self) -> Upscaler:
        """The upscaling kernels, with the operands that all masks of this image share laid out for them."""
        image_features, prepared = self._prepared
        return Upscaler(image_features.base, image_features.weights.conv1_bias, *prepared.upscaling, *self.grid)


class GpuPrompts:
    """N decoded prompts, with the methods of `decoder_folded.DecodedPrompts`. The logits are float32."""

    def __init__(self, image: GpuImage, sparse: Tensor, masks: Sequence[int]) -> None:
        self._chunk_size = prompts_per_chunk(sparse.dtype)
        self._image, self._sparse = image, sparse.split(self._chunk_size)
        self.chunks = [image.decode_chunk(part, masks) for part in self._sparse if len(part)]

    def predicted_iou(self) -> Tensor:  # (N, 4)
        if len(self.chunks) == 1:
            return self.chunks[0].iou
        return torch.cat([self._sparse[0].new_empty(0, NUM_MASK_TOKENS), *(chunk.iou for chunk in self.chunks)])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Return low-resolution logits (K, 4h, 4w) of K pairs of a prompt in [0, N) and a mask token in [0, 4).

        The result is always a new tensor. The pairs are read on the host, so lists or CPU tensors avoid a wait for the
        GPU.
        """
        prompt, mask = (np.asarray(x.cpu() if isinstance(x, Tensor) else x, np.int64) for x in (prompts, masks))
        height, width = self._image.grid
        out = self._sparse[0].new_empty(len(prompt), 4 * height, 4 * width, dtype=torch.float32)
        chunk_of_pair = prompt // self._chunk_size
        for chunk_index in sorted(set(chunk_of_pair.tolist())):
            pairs = np.flatnonzero(chunk_of_pair == chunk_index)
            if not set(mask[pairs].tolist()) <= set(self.chunks[chunk_index].masks):
                self.chunks[chunk_index] = self._image.decode_chunk(self._sparse[chunk_index], ())
            chunk = self.chunks[chunk_index]
            pair_tensors = torch.from_numpy(prompt[pairs] % self._chunk_size), torch.from_numpy(mask[pairs])
            # Pairs usually come ordered by prompt, so those of one chunk form a slice that can be written in place.
            first, last = int(pairs[0]), int(pairs[-1]) + 1
            if last - first == len(pairs):
                self._image.upscale(chunk, *pair_tensors, out[first:last])
            else:
                part = out.new_empty(len(pairs), *out.shape[1:])
                self._image.upscale(chunk, *pair_tensors, part)
                for at, logits in zip(pairs.tolist(), part, strict=True):
                    out[at] = logits
        return out
