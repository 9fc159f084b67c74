"""A few prompts through the decoder, and what their masks are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..ops._decoder.panels import PANEL
from .common import to_device
from .decoder_features import Features
from .mask_decoder import NUM_MASK_TOKENS, MaskDecoder


class Chunk:
    """Decoded prompts: predicted IoU, and what their masks are made of.

    decoder, image: of the picture. sparse: the prompts' own tokens (n, T, C). masks: mask tokens of [0, 4) that may be
    asked for, all if there are none. memory: gives the tensor of a shape that holds the prompts' coefficients.
    """

    def __init__(
        self,
        decoder: MaskDecoder,
        image: Features,
        sparse: Tensor,
        masks: Sequence[int],
        memory: Callable[[tuple[int, ...]], Tensor],
    ) -> None:
        self._image = image
        self.masks = list(masks) or list(range(NUM_MASK_TOKENS))
        tokens = decoder.tokens(sparse)  # (n, T, C), T with the output tokens
        rows = tokens.shape[1] * image.heads
        self.state = memory((len(sparse), image.base.shape[0], 2 * rows + 2, PANEL))
        chosen = [0, *(1 + mask for mask in self.masks)]
        self._final, self.iou, self._first_own, self._second_own = ops.decoder_prompts(
            tokens,
            image.weights,
            list(image.sizes),
            list(image.image),
            image.constant,
            image.eps,
            image.heads,
            image.length,
            chosen,
            self.state,
        )

    @property
    def iou_tokens(self) -> Tensor:
        """What the predicted IoU is read from: (n, C)."""
        return self._final[:, 0]

    def upscale(
        self,
        upscaling: tuple[Tensor, Tensor, float, Tensor, Tensor],
        index: Tensor,
        masks: Tensor,
        grid: tuple[int, int],
        out: Tensor,
    ) -> None:
        """Logits of mask `masks[i]` of prompt `index[i]` to out[i], (4 * height, 4 * width).

        index, masks: on the CPU, wherever the chunk is.
        """
        column = torch.tensor([self.masks.index(mask) for mask in masks.tolist()], dtype=torch.int64, device="cpu")
        numbers = (*torch.unique(index, return_inverse=True), column)
        asked, row, column = to_device(torch.cat(numbers), out.device).split([len(x) for x in numbers])  # in one copy
        image, decoded = self._image, (self._final, self._first_own, self._second_own)
        factors, weights = ops.decoder_mask_factors(
            *decoded, asked, row, column, self.masks, image.mask_layers, image.mask_sizes, *image.enlarge_mix
        )
        given = self.state, asked, factors, row, weights, image.base, image.enlarge_bias
        ops.decoder_upscale(*given, *upscaling, *grid, out)
