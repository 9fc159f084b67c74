"""`decoder_upscale` by CUDA kernels for one image, whose operands are put in the kernels' layout only once."""

from __future__ import annotations

from torch import Tensor

from .._native_cuda import DTYPES, aligned, has_kernels_for, on_device_of
from .kernels import WIDTH, bring_back, has_mask_layers, has_upscaling, why_not, written_to
from .layouts import fragments, matrices


class Upscaler:
    """`decoder_upscale` with fixed image and decoder weights, to be called with prompts and masks.

    The arguments are those of the operation. The caller must have checked them, and that `can_upscale` holds.
    """

    def __init__(
        self,
        base: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        norm_eps: float,
        enlarge_more: Tensor,
        enlarge_more_bias: Tensor,
        height: int,
        width: int,
    ) -> None:
        tensors = bias, norm_weight, norm_bias
        self._before = fragments(base), *(tensor.float().contiguous() for tensor in tensors)
        self._after = matrices(enlarge_more[None]), enlarge_more_bias.float().contiguous()
        self._norm_eps, self._size = norm_eps, (height, width)

    def __call__(
        self, state: Tensor, asked: Tensor, factors: Tensor, first: Tensor, places: Tensor, weights: Tensor, out: Tensor
    ) -> None:
        """Run the operation on masks that are grouped by prompt; indices must be in range.

        Rows first[i] to first[i + 1] - 1 of `weights` are the masks of prompt asked[i], and row j is written to
        out[places[j]]. factors: in the kernels' layout. first: (asked + 1,) int64. places: (count,) int64, a
        permutation.
        """
        with on_device_of(state, asked, factors, first, places, weights, out, *self._before) as (cuda, stream):
            rows = state.shape[2]
            ready = aligned(state), asked, factors, first, places, aligned(weights), *self._before
            written = written_to(out)
            if len(places):
                cuda.decoder_upscale(
                    DTYPES[state.dtype],
                    *(tensor.data_ptr() for tensor in ready),
                    self._norm_eps,
                    *(tensor.data_ptr() for tensor in self._after),
                    *(len(asked), rows, *self._size, written.data_ptr(), stream),
                )
            bring_back(written, out)


def can_upscale(state: Tensor, width: int, middle: int, sizes: list[int]) -> bool:
    """Return whether there are kernels for `mask_factors` and `Upscaler` with this state.

    width: channels of a token. middle: channels after the first step of the upscaling. sizes: number of outputs of the
    layers that make a mask's weights.
    """
    fits = width == WIDTH and has_mask_layers(sizes) and has_upscaling(state, middle, sizes[-1])
    return (
        has_kernels_for(state)
        and fits
        and not any(why_not(op, state) for op in ("decoder_upscale", "decoder_mask_factors"))
    )
