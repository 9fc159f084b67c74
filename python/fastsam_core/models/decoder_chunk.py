"""A chunk of prompts that go through the decoder together, and the data from which their masks are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..ops._decoder.chain import Chain
from ..ops._decoder.cuda import mask_factors
from ..ops._decoder.panels import PANEL
from ..ops._decoder.upscaler import Upscaler
from .common import to_device
from .decoder_features import Features, Upscaling
from .mask_decoder import NUM_MASK_TOKENS


class Chunk:
    """Decoded prompts: their predicted IoU, and the data from which their masks are made.

    tokens: (n, T, C), from `MaskDecoder.tokens`. image: features of the image. masks: mask tokens in [0, 4) that may be
    requested; all of them if empty. memory: called with a shape, returns the tensor that will hold the coefficients.
    chain: the image's kernel chain, if it can take these prompts; `tokens` then lack the output tokens, which the chain
    holds for all prompts.
    """

    def __init__(
        self,
        tokens: Tensor,
        image: Features,
        masks: Sequence[int],
        memory: Callable[[tuple[int, ...]], Tensor],
        chain: Chain | None = None,
    ) -> None:
        self._image = image
        self.masks = list(masks) or list(range(NUM_MASK_TOKENS))
        own = image.decoder
        rows = (tokens.shape[1] + (chain.outputs if chain is not None else 0)) * own.heads
        self.state = memory((len(tokens), image.base.shape[0], 2 * rows + 2, PANEL))
        chosen = [0, *(1 + mask for mask in self.masks)]
        self._final, self.iou, self._first_own, self._second_own = (
            self._decode(tokens, chosen) if chain is None else chain(tokens, chosen, self.state)
        )

    def _decode(self, tokens: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode with the operation `decoder_prompts`, which overwrites `state` with the coefficients."""
        image, own = self._image, self._image.decoder
        return ops.decoder_prompts(
            tokens,
            own.weights,
            list(own.sizes),
            list(image.image),
            own.constant,
            own.eps,
            own.heads,
            image.length,
            chosen,
            self.state,
        )

    @property
    def iou_tokens(self) -> Tensor:
        """Final tokens (n, C) from which the IoU is predicted."""
        return self._final[:, 0]

    def upscale(
        self,
        upscaling: Upscaling,
        index: np.ndarray,
        masks: np.ndarray,
        grid: tuple[int, int],
        out: Tensor,
        upscaler: Upscaler | None = None,
    ) -> None:
        """Write the logits of mask `masks[i]` of prompt `index[i]` into out[i], (4 * height, 4 * width).

        index, masks: (K,) int64. grid: (height, width) of the image tokens. upscaler: the image's upscaler, if it can
        take this chunk; otherwise the operations are called.
        """
        asked, row = np.unique(index, return_inverse=True)
        column = np.zeros(NUM_MASK_TOKENS, np.int64)
        column[self.masks] = range(len(self.masks))
        if upscaler is None:
            there, of_row, of_column = _there(out.device, asked, row, column[masks])
            factors, weights = ops.decoder_mask_factors(*self._of_factors(there, of_row, of_column))
            factors = factors.to(upscaling.enlarge_more.dtype)
            image = self._image
            given = self.state, there, factors, of_row, weights, image.base, image.decoder.enlarge_bias
            ops.decoder_upscale(*given, *upscaling, *grid, out)
            return
        order = np.argsort(row, kind="stable")  # upscaler needs the masks sorted by prompt
        row, column = row[order], column[masks[order]]
        begin = np.searchsorted(row, np.arange(len(asked) + 1))
        there, of_row, of_column, first, places = _there(out.device, asked, row, column, begin, order)
        factors, weights = mask_factors(*self._of_factors(there, of_row, of_column), laid_out=True)
        upscaler(self.state, there, factors, first, places, weights, out)

    def _of_factors(self, asked: Tensor, row: Tensor, column: Tensor) -> Any:
        """Return the arguments of `decoder_mask_factors`."""
        own, decoded = self._image.decoder, (self._final, self._first_own, self._second_own)
        return *decoded, asked, row, column, self.masks, own.mask_layers, own.mask_sizes, *own.enlarge_mix


def _there(device: torch.device, *numbers: np.ndarray) -> Sequence[Tensor]:
    """Move several int64 arrays to the device in one copy."""
    together = torch.from_numpy(np.concatenate(numbers))
    return to_device(together, device).split([len(part) for part in numbers])
