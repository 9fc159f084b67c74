"""The mask decoder for inference on the CPU: no prompt has image tokens of its own.

What the image gives is projected once (`decoder_features`); what a prompt adds to an image token is a combination of
its few tokens' values, whose coefficients are made in two passes over the image (`ops.decoder_first_pass`,
`ops.decoder_second_pass`) and enlarged to logits for the prompts with masks that somebody wants
(`ops.decoder_upscale`). Between two looks at the image, the tokens of several prompts go through PyTorch together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .common import LayerNorm2d
from .decoder_chunk import Chunk
from .decoder_features import as_matrix, features
from .mask_decoder import NUM_MASK_TOKENS, MaskDecoder

# Prompts decoded together: 60 MiB of coefficients at 64 x 64. Fewer would make more and smaller steps for the tokens
# in PyTorch.
PROMPTS_PER_CHUNK = 32
# Prompts whose coefficients are kept for masks that may be asked for later; the others are decoded a second time.
PROMPTS_KEPT = 32


class TiledImage:
    """What the decoder needs of one image, made once for all its prompts. The arguments are those of `FoldedImage`."""

    def __init__(self, decoder: MaskDecoder, embedding: Tensor, position: Tensor, dense: Tensor) -> None:
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        source, pe = (embedding + dense)[0].flatten(1).T, position[0].flatten(1).T  # (L, C)
        self.features = features(decoder, source.contiguous(), pe.contiguous())
        _, norm, _, enlarge_more, _ = decoder.output_upscaling
        norm = cast(LayerNorm2d, norm)
        self._upscaling = (norm.weight, norm.bias, norm.eps, *as_matrix(enlarge_more))
        # Memory of a chunk's coefficients, kept from call to call: touching fresh pages takes longer than a pass.
        self._spare: list[Tensor] = []

    def decode(self, sparse: Tensor, masks: Sequence[int] = (), above: float | None = None) -> TiledPrompts:
        """Decode prompts, and make the masks that will be wanted while their coefficients are at hand.

        sparse: prompt tokens (N, T, C). masks: mask tokens of [0, 4) to make at once, for the prompts where their
        predicted IoU is greater than `above`, or for all. Others can still be asked for, at the price of decoding
        their prompts again, once there are more than a few dozen of them.
        """
        decoded = TiledPrompts(self, sparse, masks)
        for start in range(0, len(sparse), PROMPTS_PER_CHUNK):
            decoded.add(start, sparse[start : start + PROMPTS_PER_CHUNK], above)
        return decoded

    def decode_chunk(self, sparse: Tensor, masks: Sequence[int]) -> Chunk:
        """Decode prompt tokens (n, T, C), as far as these mask tokens need it, all without any."""
        return Chunk(self.decoder, self.features, sparse, masks, self._take)

    def upscale(self, chunk: Chunk, index: Tensor, masks: Tensor, out: Tensor) -> None:
        """Logits of mask `masks[i]` of prompt `index[i]` of a chunk to out[i]."""
        chunk.upscale(self._upscaling, index, masks, self.grid, out)

    def _take(self, shape: tuple[int, ...]) -> Tensor:
        """Memory for a chunk's coefficients. Two threads may ask at once; pop is one step."""
        size = math.prod(shape)
        try:
            spare = self._spare.pop()
            if len(spare) >= size:
                return spare[:size].view(shape)
        except IndexError:
            pass
        return self.features.base.new_empty(shape)

    def give_back(self, chunk: Chunk) -> None:
        """Let the next chunk use this one's memory, of which nothing may be read any more."""
        if not self._spare:
            state = chunk.state
            self._spare.append(state.as_strided((state.untyped_storage().nbytes() // state.itemsize,), (1,), 0))


class TiledPrompts:
    """N decoded prompts. Has the methods of `decoder_folded.DecodedPrompts`."""

    def __init__(self, image: TiledImage, sparse: Tensor, masks: Sequence[int]) -> None:
        height, width = image.grid
        self._image, self._sparse, self._masks = image, sparse, list(masks)
        self._iou: list[Tensor] = []  # chunks of (n, 4)
        self._chunks: list[Chunk] = []  # the first ones, where no masks are made at once
        # Masks in the order of prompts, then of `masks`. Memory of masks that nobody wants is never touched.
        self._made = sparse.new_empty(len(sparse) * len(masks), 4 * height, 4 * width)
        self._count = 0
        self._place = torch.full((len(sparse), NUM_MASK_TOKENS), -1, device="cpu")  # of each mask among those made

    def add(self, start: int, sparse: Tensor, above: float | None) -> None:
        """Decode the prompts from `start` on."""
        chunk = self._image.decode_chunk(sparse, self._masks)
        self._iou.append(chunk.iou)
        if self._masks:
            iou = chunk.iou[:, self._masks]
            wanted = torch.ones_like(iou, dtype=torch.bool) if above is None else iou > above
            row, column = wanted.nonzero(as_tuple=True)
            if len(row):
                chosen, end = torch.tensor(self._masks, device="cpu")[column], self._count + len(row)
                self._image.upscale(chunk, row, chosen, self._made[self._count : end])
                self._place[start + row, chosen] = torch.arange(self._count, end, device="cpu")
                self._count = end
        if self._masks or start + len(sparse) > PROMPTS_KEPT:
            self._image.give_back(chunk)
        else:
            self._chunks.append(chunk)

    def predicted_iou(self) -> Tensor:  # (N, 4)
        return torch.cat([self._made.new_empty(0, NUM_MASK_TOKENS), *self._iou])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Low-resolution logits (K, 4h, 4w) of K pairs: prompt in [0, N), mask token in [0, 4).

        The result may share memory with that of another call.
        """
        prompts, masks = (torch.as_tensor(x, dtype=torch.long, device="cpu") for x in (prompts, masks))
        place = self._place[prompts, masks]
        if len(place) and int(place[0]) >= 0 and bool((place.diff() == 1).all()):
            return self._made[int(place[0]) : int(place[0]) + len(place)]
        out = self._made.new_empty(len(prompts), *self._made.shape[1:])
        made = (place >= 0).nonzero()[:, 0]
        out[made] = self._made[place[made]]
        missing = (place < 0).nonzero()[:, 0]
        for chunk in torch.unique(prompts[missing] // PROMPTS_PER_CHUNK).tolist():
            pairs = missing[prompts[missing] // PROMPTS_PER_CHUNK == chunk]
            out[pairs] = self._late(chunk, prompts[pairs] % PROMPTS_PER_CHUNK, masks[pairs])
        return out

    def _late(self, chunk: int, index: Tensor, masks: Tensor) -> Tensor:
        """Logits of pairs of one chunk that have not been made."""
        out = self._made.new_empty(len(index), *self._made.shape[1:])
        if chunk < len(self._chunks):
            self._image.upscale(self._chunks[chunk], index, masks, out)
        else:
            asked, index = torch.unique(index, return_inverse=True)
            decoded = self._image.decode_chunk(self._sparse[chunk * PROMPTS_PER_CHUNK + asked], ())
            self._image.upscale(decoded, index, masks, out)
            self._image.give_back(decoded)
        return out
