"""The mask decoder for inference on a GPU, in half precision: `decoder_features`, for all prompts at once.

As in `decoder_tiled` no prompt has image tokens of its own; here the passes are a few launches for all prompts of a
call, on the current stream, and the masks are made when they are asked for. Nothing waits for the GPU. The
tokens' own way between the passes is a chain of launches as well, so that even one prompt takes half of what it takes
`FoldedImage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..ops import why
from ..ops._decoder.cuda import has_kernels
from ..ops._decoder.layouts import TOKENS
from ..ops._decoder.weights import ImageParts
from ..ops._native_cuda import say_served_by_pytorch
from .common import LayerNorm2d
from .decoder_chunk import Chunk
from .decoder_features import Features, as_matrix, features
from .decoder_folded import DecodedPrompts, FoldedImage
from .mask_decoder import NUM_MASK_TOKENS, MaskDecoder
from .native import serves_on_gpu
from .precision import in_dtype

# Prompts whose coefficients are made together: 0.9 MiB each at 64 x 64.
PROMPTS_PER_CHUNK = 1024
_OPS = ("decoder_first_look", "decoder_first_pass", "decoder_second_pass", "decoder_upscale")
_FEWEST_TOKENS = NUM_MASK_TOKENS + 2  # the output tokens and one of the prompt


def serves_decoder(decoder: MaskDecoder, embedding: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take this decoder on this image; where they don't take one on a GPU, that is said once."""
    if not embedding.is_cuda or torch.is_grad_enabled():
        return False
    if not serves_on_gpu(embedding, *others) or embedding.dtype == torch.float32:
        say_served_by_pytorch(
            why("decoder_first_pass", embedding)["cuda"] or "the decoder's tensors are of several kinds"
        )
        return False
    if torch.is_autocast_enabled("cuda"):
        say_served_by_pytorch("the decoder's kernels take tensors of one dtype, and autocast may ask for another")
        return False
    reason = next((reason for op in _OPS if (reason := why(op, embedding)["cuda"])), "")
    attention = decoder.transformer.blocks[0].cross_attn_token_to_image
    fits = has_kernels(attention.num_heads, attention.head_dim, _FEWEST_TOKENS) and embedding.shape[1] == 256
    if not reason and not fits:
        reason = "there are no kernels for a decoder of these sizes"
    if reason:
        say_served_by_pytorch(reason)
    return not reason


class GpuImage:
    """What the decoder needs of one image, made once for all its prompts. The arguments are those of `FoldedImage`."""

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, position: Tensor, dense: Tensor) -> None:
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        self._given = embedding, position, dense
        self._folded: FoldedImage | None = None
        self._features: Features | None = None
        _, norm, _, enlarge_more, _ = decoder.output_upscaling
        norm = cast(LayerNorm2d, norm)
        self._upscaling = (norm.weight, norm.bias, norm.eps, *as_matrix(enlarge_more))

    @property
    def features(self) -> Features:
        """Made at the first use."""
        if self._features is None:
            # In float32, on weights as the decoder has them: what is rounded is the result, once.
            exact = cast(MaskDecoder, in_dtype(self.decoder, torch.float32))
            embedding, position, dense = (tensor.float() for tensor in self._given)
            source, pe = (embedding + dense)[0].flatten(1).T, position[0].flatten(1).T  # (L, C)
            self._features = _rounded(features(exact, source.contiguous(), pe.contiguous()), self._given[0].dtype)
        return self._features

    def decode(
        self, sparse: Tensor, masks: Sequence[int] = (), above: float | None = None
    ) -> GpuPrompts | FoldedPrompts:
        """sparse: prompt tokens (N, T, C). masks: mask tokens of [0, 4) that will be asked for, all if there are none.

        above: as in `TiledImage.decode`; nothing is gained from knowing it here. PyTorch decodes prompts of more tokens
        than the kernels take.
        """
        if sparse.shape[1] + 1 + NUM_MASK_TOKENS > TOKENS:
            say_served_by_pytorch(
                f"the decoder's kernels take prompts of at most {TOKENS - 1 - NUM_MASK_TOKENS} tokens"
            )
            if self._folded is None:
                self._folded = FoldedImage(self.decoder, *self._given)
            return FoldedPrompts(self._folded.decode(sparse, masks, above))
        return GpuPrompts(self, sparse, masks)

    def decode_chunk(self, sparse: Tensor, masks: Sequence[int]) -> Chunk:
        """Decode prompt tokens (n, T, C), as far as these mask tokens need it, all without any."""
        return Chunk(self.decoder, self.features, sparse, masks, sparse.new_empty)

    def upscale(self, chunk: Chunk, index: Tensor, masks: Tensor, out: Tensor) -> None:
        """Logits of mask `masks[i]` of prompt `index[i]` of a chunk to out[i], float32."""
        chunk.upscale(self._upscaling, index, masks, self.grid, out)


class FoldedPrompts:
    """N prompts that PyTorch has decoded. As of `GpuPrompts`, their logits are float32."""

    def __init__(self, decoded: DecodedPrompts) -> None:
        self._decoded = decoded

    def predicted_iou(self) -> Tensor:  # (N, 4)
        return self._decoded.predicted_iou()

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """See `GpuPrompts.logits`."""
        return self._decoded.logits(prompts, masks).float()


class GpuPrompts:
    """N decoded prompts. Has the methods of `decoder_folded.DecodedPrompts`; logits are float32."""

    def __init__(self, image: GpuImage, sparse: Tensor, masks: Sequence[int]) -> None:
        self._image, self._sparse = image, sparse.split(PROMPTS_PER_CHUNK)
        self._chunks = [image.decode_chunk(part, masks) for part in self._sparse if len(part)]

    def predicted_iou(self) -> Tensor:  # (N, 4)
        return torch.cat([self._sparse[0].new_empty(0, NUM_MASK_TOKENS), *(chunk.iou for chunk in self._chunks)])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Low-resolution logits (K, 4h, 4w) of K pairs: prompt in [0, N), mask token in [0, 4). Always new memory.

        What says which pairs is read on the host: lists, or CPU tensors.
        """
        prompts, masks = (torch.as_tensor(x, dtype=torch.long, device="cpu") for x in (prompts, masks))
        height, width = self._image.grid
        out = self._sparse[0].new_empty(len(prompts), 4 * height, 4 * width, dtype=torch.float32)
        of_chunk = prompts // PROMPTS_PER_CHUNK
        for number in torch.unique(of_chunk).tolist():
            pairs = (of_chunk == number).nonzero()[:, 0]
            wanted = masks[pairs]
            if not set(wanted.tolist()) <= set(self._chunks[number].masks):
                self._chunks[number] = self._image.decode_chunk(self._sparse[number], ())
            index = prompts[pairs] % PROMPTS_PER_CHUNK
            # Pairs mostly come by prompt, and so those of a chunk in one piece.
            first, last = int(pairs[0]), int(pairs[-1]) + 1
            if last - first == len(pairs):
                self._image.upscale(self._chunks[number], index, wanted, out[first:last])
            else:
                part = out.new_empty(len(pairs), *out.shape[1:])
                self._image.upscale(self._chunks[number], index, wanted, part)
                for at, logits in zip(pairs.tolist(), part, strict=True):
                    out[at] = logits
        return out


def _rounded(exact: Features, dtype: torch.dtype) -> Features:
    """In half precision, but for what LayerNorm adds up."""
    parts = zip(ImageParts._fields, exact.image, strict=True)
    first, second, rest = (mix.to(dtype) for mix in exact.enlarge_mix)
    return replace(
        exact,
        image=ImageParts(*(part if name.startswith("norms") else part.to(dtype) for name, part in parts)),
        base=exact.base.to(dtype),
        weights=exact.weights.to(dtype),
        mask_layers=exact.mask_layers.to(dtype),
        enlarge_mix=(first, second, rest),
        enlarge_bias=exact.enlarge_bias.to(dtype),
    )
