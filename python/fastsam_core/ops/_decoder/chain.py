"""`decoder_prompts` by CUDA kernels for one image, whose operands are put in the kernels' layout only once."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native_cuda import DTYPES, aligned, has_kernels_for, on_device_of, shared_memory
from .kernels import has_layers, why_not
from .schema import allocate_prompt_results
from .weights import ImageParts, TokenSizes


class Chain:
    """`decoder_prompts` with fixed image, decoder weights and output tokens, to be called with the prompts' own tokens.

    `output` are the tokens that every prompt begins with; the other arguments are those of `decoder_prompts`.
    """

    def __init__(
        self,
        output: Tensor,  # (T, C)
        weights: Tensor,
        sizes: TokenSizes,
        image: ImageParts,
        constant: Tensor,
        eps: float,
        heads: int,
        length: int,
    ) -> None:
        self.outputs = len(output)
        self._sizes, self._eps, self._heads, self._length = sizes, eps, heads, length
        with on_device_of(output, weights, constant, *image) as (cuda, stream), torch.no_grad():
            parts = image._asdict()
            flat = {name: aligned(part) for name, part in parts.items() if not name.startswith("norms")}
            packed = {name: torch.empty_like(part) for name, part in flat.items()}
            addresses = [[part.data_ptr() for part in aligned_sparse.values()] for aligned_sparse in (flat, packed)]
            cuda.decoder_pack_image(*addresses, length, stream)
            self._image = [packed[name] if name in packed else aligned(part) for name, part in parts.items()]
            self._shared = aligned(output.detach()), aligned(weights), aligned(constant)
        self._addresses = [tensor.data_ptr() for tensor in (*self._shared, *self._image)]

    def __call__(self, sparse: Tensor, chosen: list[int], state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run `decoder_prompts` on prompts with own tokens `sparse`, (prompts, T, C); `can_run_chain` must hold."""
        output, weights, _ = self._shared
        with on_device_of(sparse, state, output) as (cuda, stream), torch.no_grad():
            shape = len(sparse), self.outputs + sparse.shape[1], self._length, chosen
            results = allocate_prompt_results(sparse, shape[1], self._sizes, self._heads, len(chosen))
            if not len(sparse):
                return results
            sizes, aligned_sparse = list(self._sizes), aligned(sparse)
            scratch_bytes = cuda.decoder_prompts_scratch_bytes(len(weights), sizes, True, *shape)
            scratch = sparse.new_empty(scratch_bytes, dtype=torch.uint8)
            output_ptr, weights_ptr, constant_ptr, *image_ptrs = self._addresses
            cuda.decoder_prompts(
                *(
                    DTYPES[sparse.dtype],
                    aligned_sparse.data_ptr(),
                    output_ptr,
                    self.outputs,
                    weights_ptr,
                    len(weights),
                    sizes,
                ),
                *(image_ptrs, True, constant_ptr, self._eps, *shape, state.data_ptr()),
                *(tensor.data_ptr() for tensor in results),
                *(scratch.data_ptr(), scratch_bytes, shared_memory(cuda, state.device), stream),
            )
        return results


def can_run_chain(sparse: Tensor, outputs: int, sizes: TokenSizes, heads: int, dtype: torch.dtype) -> bool:
    """Return whether a `Chain` of `dtype` with `outputs` output tokens has kernels for prompts with these tokens."""
    fits = sparse.dtype == dtype and sparse.shape[2] == sizes.width
    fits = fits and has_layers(sizes, heads, outputs + sparse.shape[1])
    return fits and has_kernels_for(sparse) and not why_not("decoder_prompts", sparse)
