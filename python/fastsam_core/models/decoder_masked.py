"""Update an image's decoder features for a mask prompt.

A prompt with a mask has image tokens of its own: instead of the embedding of "no mask", U m is added to them, a 1 x 1
convolution of a few channels m (16 in SAM, and here a constant one for the difference of the biases). Everything that
`decoder_features.compute_features` computes from image tokens X is linear in them, except for the norms, which are
quadratic. In its notation, with A = J U and B = J (w1 * A):

    W (X + U m) = W X + (W U) m
    |J (X + U m + b_o1)|^2 = |J (X + b_o1)|^2 + m . (2 A^T (X + b_o1) + A^T A m)

The first equation also holds for the centred tokens, with A in place of U, and for D, with B. The norm of D changes in
the same way as the second says. Each number that depends on the mask thus costs 17 multiplications instead of C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops._decoder.panels import PANEL, to_panels
from ..ops._decoder.weights import ImageParts
from .decoder_features import ImageFeatures, centred_and_spread, project


class MaskedFeatures:
    """The features of one image, ready for mask prompts.

    features: without a mask. source: (L, C), the image tokens they were made from. mix: (K, C), the transpose of
    U, i.e. what each of a mask's K channels adds to all channels of an image token.
    """

    def __init__(self, features: ImageFeatures, source: Tensor, mix: Tensor) -> None:
        self._features, self.mix, weights = features, mix, features.weights
        centred_mix, spread_mix = centred_and_spread(weights, mix)
        centred, spread = centred_and_spread(weights, source + weights.first_out_bias)
        projections = project(weights, mix, centred_mix, spread_mix, None)
        mix_projections = projections._asdict()
        self._matrices = {
            name: mix_projections[name].T.contiguous() for name in ("first_keys", "image1", "image2", "base")
        }
        self._values = {name: self._by_head(mix_projections[name]) for name in ("first_values", "values1", "values2")}
        base_tensors = {**features.parts._asdict(), "base": features.base}
        self._base_tensors = {name: base_tensors[name] for name in mix_projections}
        self._free_buffers: list[dict[str, Tensor]] = []
        inverse_channels = 1 / source.shape[1]
        self._grams = [rows @ rows.T * inverse_channels for rows in (centred_mix, spread_mix)]  # (K, K)
        cross_products = centred @ centred_mix.T, spread @ spread_mix.T
        self._crosses = [to_panels(rows * (2 * inverse_channels)) for rows in cross_products]  # (panels, K, 16)
        self._constant_products = (spread_mix @ weights.constant_vector)[None]  # (1, K)

    def _by_head(self, projections: Tensor) -> Tensor:  # (K, heads * d) -> (heads, K, d rounded up)
        split = projections.unflatten(1, (self._features.weights.heads, -1)).transpose(0, 1)
        return F.pad(split, (0, -split.shape[2] % PANEL)).contiguous()

    @contextmanager
    def with_mask(self, channels: Tensor) -> Iterator[ImageFeatures]:
        """Yield the features with a mask prompt of channels (K, L).

        After the context ends, the next mask may reuse their memory.
        """
        features = self._features
        panels = to_panels(channels.T)  # (panels, K, 16)
        rows = panels.transpose(1, 2).reshape(1, -1, len(channels))  # (1, panels * 16, K)
        try:  # touching fresh pages takes longer than filling them
            buffers = self._free_buffers.pop()
        except IndexError:
            with torch.inference_mode(False):  # so that later calls in any mode may write to it
                buffers = {name: torch.empty_like(tensor) for name, tensor in self._base_tensors.items()}
        for name, matrix in self._matrices.items():
            torch.baddbmm(self._base_tensors[name], matrix.expand(len(panels), -1, -1), panels, out=buffers[name])
        for name, matrix in self._values.items():
            torch.baddbmm(self._base_tensors[name], rows.expand(len(matrix), -1, -1), matrix, out=buffers[name])
        first, second = (
            ((cross + gram @ panels) * panels).sum(1) for cross, gram in zip(self._crosses, self._grams, strict=True)
        )
        norms1 = features.parts.norms1 + first
        norms2 = features.parts.norms2 + torch.stack([second, (self._constant_products @ panels)[:, 0]], 1)
        parts = {name: buffers[name] for name in buffers if name != "base"}
        yield replace(features, parts=ImageParts(**parts, norms1=norms1, norms2=norms2), base=buffers["base"])
        if not self._free_buffers:
            self._free_buffers.append(buffers)
