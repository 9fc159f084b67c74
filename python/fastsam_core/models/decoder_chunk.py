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
from .decoder_features import ImageFeatures, Upscaling
from .mask_decoder import NUM_MASK_TOKENS


class Chunk:
    """Decoded prompts: their predicted IoU, and the data from which their masks are made.

    tokens: (n, T, C), from `MaskDecoder.tokens`. features: those of the image. masks: mask tokens in [0, 4) that may be
    requested; all of them if empty. allocate: called with a shape, returns the tensor that will hold the coefficients.
    chain: the image's kernel chain, if it can take these prompts; `tokens` then lack the output tokens, which the chain
    holds for all prompts.
    """

    def __init__(
        self,
        tokens: Tensor,
        features: ImageFeatures,
        masks: Sequence[int],
        allocate: Callable[[tuple[int, ...]], Tensor],
        chain: Chain | None = None,
    ) -> None:
        self._features = features
        self.masks = list(masks) or list(range(NUM_MASK_TOKENS))
        weights = features.weights
        rows = (tokens.shape[1] + (chain.outputs if chain is not None else 0)) * weights.heads
        self.state = allocate((len(tokens), features.base.shape[0], 2 * rows + 2, PANEL))
        chosen = [0, *(1 + mask for mask in self.masks)]
        self._final, self.iou, self._first_token_values, self._second_token_values = (
            self._decode(tokens, chosen) if chain is None else chain(tokens, chosen, self.state)
        )

    def _decode(self, tokens: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode with the operation `decoder_prompts`, which overwrites `state` with the coefficients."""
        features, weights = self._features, self._features.weights
        return ops.decoder_prompts(
            tokens,
            weights.token_weights,
            list(weights.token_sizes),
            list(features.parts),
            weights.constant,
            weights.eps,
            weights.heads,
            features.length,
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
        selected, row = np.unique(index, return_inverse=True)
        column = np.zeros(NUM_MASK_TOKENS, np.int64)
        column[self.masks] = range(len(self.masks))
        if upscaler is None:
            device_selected, device_row, device_column = _to_device(out.device, selected, row, column[masks])
            factors, weights = ops.decoder_mask_factors(*self._factor_args(device_selected, device_row, device_column))
            factors = factors.to(upscaling.conv2.dtype)
            features = self._features
            args = self.state, device_selected, factors, device_row, weights, features.base, features.weights.conv1_bias
            ops.decoder_upscale(*args, *upscaling, *grid, out)
            return
        order = np.argsort(row, kind="stable")  # upscaler needs the masks sorted by prompt
        row, column = row[order], column[masks[order]]
        offsets = np.searchsorted(row, np.arange(len(selected) + 1))
        device_selected, device_row, device_column, mask_offsets, out_indices = _to_device(
            out.device, selected, row, column, offsets, order
        )
        factors, weights = mask_factors(*self._factor_args(device_selected, device_row, device_column), packed=True)
        upscaler(self.state, device_selected, factors, mask_offsets, out_indices, weights, out)

    def _factor_args(self, selected: Tensor, row: Tensor, column: Tensor) -> Any:
        """Return the arguments of `decoder_mask_factors`."""
        weights, decoded = self._features.weights, (self._final, self._first_token_values, self._second_token_values)
        return *decoded, selected, row, column, self.masks, weights.mask_layers, weights.mask_sizes, *weights.conv1_mix


def _to_device(device: torch.device, *arrays: np.ndarray) -> Sequence[Tensor]:
    """Move several int64 arrays to the device in one copy."""
    joined = torch.from_numpy(np.concatenate(arrays))
    return to_device(joined, device).split([len(part) for part in arrays])
