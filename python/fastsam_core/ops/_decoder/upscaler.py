"""`decoder_upscale` by CUDA kernels for one image, whose operands are put in the kernels' layout only once."""

from __future__ import annotations

from torch import Tensor

from .._native_cuda import DTYPES, aligned, has_kernels_for, on_device_of
from .kernels import WIDTH, aligned_output, copy_back, has_mask_layers, has_upscaling, why_not
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
        conv2: Tensor,
        conv2_bias: Tensor,
        height: int,
        width: int,
    ) -> None:
        tensors = bias, norm_weight, norm_bias
        self._leading_operands = fragments(base), *(tensor.float().contiguous() for tensor in tensors)
        self._trailing_operands = matrices(conv2[None]), conv2_bias.float().contiguous()
        self._norm_eps, self._size = norm_eps, (height, width)

    def __call__(
        self,
        state: Tensor,
        selected: Tensor,
        factors: Tensor,
        mask_offsets: Tensor,
        out_indices: Tensor,
        weights: Tensor,
        out: Tensor,
    ) -> None:
        """Run the operation on masks that are grouped by prompt; indices must be in range.

        Rows mask_offsets[i] to mask_offsets[i + 1] - 1 of `weights` are the masks of prompt selected[i], and row j is
        written to out[out_indices[j]]. factors: in the kernels' layout. mask_offsets: (selected + 1,) int64.
        out_indices: (count,) int64, a permutation.
        """
        with on_device_of(
            state, selected, factors, mask_offsets, out_indices, weights, out, *self._leading_operands
        ) as (cuda, stream):
            rows = state.shape[2]
            tensors = (
                aligned(state),
                selected,
                factors,
                mask_offsets,
                out_indices,
                aligned(weights),
                *self._leading_operands,
            )
            aligned_out = aligned_output(out)
            if len(out_indices):
                cuda.decoder_upscale(
                    DTYPES[state.dtype],
                    *(tensor.data_ptr() for tensor in tensors),
                    self._norm_eps,
                    *(tensor.data_ptr() for tensor in self._trailing_operands),
                    *(len(selected), rows, *self._size, aligned_out.data_ptr(), stream),
                )
            copy_back(aligned_out, out)


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
