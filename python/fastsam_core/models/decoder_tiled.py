"""The mask decoder for inference on the CPU, without image tokens per prompt.

The image's part is projected once (`decoder_features`). What a prompt adds to an image token is a combination of the
values of its few tokens. The coefficients are computed in two passes over the image (`ops.decoder_first_pass`,
`ops.decoder_second_pass`) and upscaled to logits for the requested masks (`ops.decoder_upscale`). The work on the
tokens in between is native too (`ops.decoder_prompts`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Condition

import torch
from torch import Tensor

from ..ops._threads import native_threads, parallel_for, thread_count
from .decoder_chunk import Chunk
from .decoder_features import compute_features, prepare_decoder
from .decoder_masked import MaskedFeatures
from .mask_decoder import NUM_MASK_TOKENS, MaskDecoder

# Prompts decoded together by one thread; their coefficients take about 57 MiB at 64 x 64. The number doesn't depend on
# the number of threads, so that the matrix products over a chunk's tokens are the same to the bit.
PROMPTS_PER_CHUNK = 32
# Number of prompts whose coefficients are cached for masks that may be requested later; the others are decoded again.
MAX_CACHED_PROMPTS = 32


class TiledImage:
    """Tensors that the decoder needs of one image, computed once for all its prompts.

    matrices: dtype of the matrices in the upscaling, float32 or bfloat16. The predicted IoU is the same for both. The
    other arguments are those of `FoldedImage`.
    """

    def __init__(
        self,
        decoder: MaskDecoder,
        embedding: Tensor,
        position: Tensor,
        dense: Tensor,
        matrices: torch.dtype = torch.float32,
    ) -> None:
        self.decoder = decoder
        self.grid: tuple[int, int] = (embedding.shape[-2], embedding.shape[-1])
        self._inputs = embedding, dense
        self._masked: MaskedFeatures | None = None
        with native_threads():
            prepared = prepare_decoder(decoder)
            self.features = compute_features(prepared.weights, self._source(), prepared.project_position(position))
        self._upscaling = prepared.upscaling._replace(conv2=prepared.upscaling.conv2.to(matrices))
        # Memory for coefficients, reused from call to call: touching fresh pages takes longer than a pass.
        self._free_buffers: list[Tensor] = []
        self._max_free_buffers = 1  # how many blocks to keep

    def _source(self) -> Tensor:  # (L, C)
        embedding, dense = self._inputs
        return (embedding + dense)[0].flatten(1).T.contiguous()

    def with_masks(self, mix: Tensor) -> Callable[[Tensor], AbstractContextManager[TiledImage]]:
        """Return a function from a mask prompt's channels (K, h, w) to a context with the image for that prompt.

        mix: (K, C), what each channel adds to an image token, see `PromptEncoder.mask_projection`. The yielded
        `TiledImage` is valid inside the context only.
        """
        if self._masked is None or not torch.equal(self._masked.mix, mix):
            self._masked = MaskedFeatures(self.features, self._source(), mix)
        masked = self._masked

        @contextmanager
        def image(channels: Tensor) -> Iterator[TiledImage]:
            other = copy.copy(self)  # a shallow copy shares the reused memory
            other._masked = None
            with masked.with_mask(channels.flatten(1)) as other.features:
                yield other

        return image

    def decode(self, sparse: Tensor, masks: Sequence[int] = (), iou_threshold: float | None = None) -> TiledPrompts:
        """Decode prompts, and make the wanted masks while their coefficients are in memory.

        sparse: prompt tokens (N, T, C). masks: mask tokens in [0, 4) to make at once. iou_threshold: if given, only for
        those with a predicted IoU greater than this. Other masks can still be requested; their prompts are then decoded
        again, except for the first `MAX_CACHED_PROMPTS` prompts if `masks` is empty.
        """
        decoded = TiledPrompts(self, sparse, masks, iou_threshold)
        self._max_free_buffers = thread_count()
        parallel_for(decoded.decode_chunk, -(-len(sparse) // PROMPTS_PER_CHUNK))
        return decoded

    def decode_chunk(self, sparse: Tensor, masks: Sequence[int]) -> Chunk:
        """Decode prompt tokens (n, T, C), as far as these mask tokens need it; all mask tokens if `masks` is empty."""
        return Chunk(self.decoder.tokens(sparse), self.features, masks, self._allocate_state)

    def upscale(self, chunk: Chunk, index: Tensor, masks: Tensor, out: Tensor) -> None:
        """Write the logits of mask `masks[i]` of prompt `index[i]` of a chunk into out[i]."""
        chunk.upscale(self._upscaling, index.numpy(), masks.numpy(), self.grid, out)

    def _allocate_state(self, shape: tuple[int, ...]) -> Tensor:
        """Return memory for a chunk's coefficients. Safe to call from several threads, since `list.pop` is atomic."""
        size = math.prod(shape)
        try:
            buffer = self._free_buffers.pop()
            if len(buffer) >= size:
                return buffer[:size].view(shape)
        except IndexError:
            pass
        return self.features.base.new_empty(shape)

    def release_state(self, chunk: Chunk) -> None:
        """Let the next chunk reuse this chunk's memory; nothing may read the chunk's coefficients afterwards."""
        if len(self._free_buffers) < self._max_free_buffers:
            state = chunk.state
            self._free_buffers.append(state.as_strided((state.untyped_storage().nbytes() // state.itemsize,), (1,), 0))


class TiledPrompts:
    """N decoded prompts, with the methods of `decoder_folded.DecodedPrompts`."""

    def __init__(self, image: TiledImage, sparse: Tensor, masks: Sequence[int], iou_threshold: float | None) -> None:
        height, width = image.grid
        self._image, self._sparse, self._masks, self._iou_threshold = image, sparse, list(masks), iou_threshold
        self._iou: dict[int, Tensor] = {}  # (n, 4) of each chunk
        self._chunks: dict[int, Chunk] = {}  # the first chunks, kept if no masks are made at once
        # Masks made at once, ordered by prompt, then by `masks`. Memory of masks that aren't made is never touched.
        self._eager_logits = sparse.new_empty(len(sparse) * len(masks), 4 * height, 4 * width)
        # Index in `_eager_logits` of each prompt's masks, or -1.
        self._eager_index = torch.full((len(sparse), NUM_MASK_TOKENS), -1, device="cpu")
        # Masks made by the chunks before `_next_chunk`, and the next chunk to reserve its slots.
        self._num_eager, self._next_chunk = 0, 0
        self._condition, self._failed = Condition(), False

    def decode_chunk(self, chunk_index: int) -> None:
        """Decode a chunk. Several threads may call this at once, if chunks are started in order."""
        try:
            self._decode_chunk(chunk_index)
        except BaseException:
            with self._condition:  # wake the threads that wait for this chunk
                self._failed = True
                self._condition.notify_all()
            raise

    def _decode_chunk(self, chunk_index: int) -> None:
        """Decode a chunk, make the masks that are wanted at once, and give back or keep its coefficients."""
        start = chunk_index * PROMPTS_PER_CHUNK
        chunk = self._image.decode_chunk(self._sparse[start : start + PROMPTS_PER_CHUNK], self._masks)
        iou = chunk.iou[:, self._masks]
        wanted = torch.ones_like(iou, dtype=torch.bool) if self._iou_threshold is None else iou > self._iou_threshold
        row, column = wanted.nonzero(as_tuple=True)
        with self._condition:
            # Chunks reserve their slots in order, so that the masks lie in the order of the prompts.
            self._condition.wait_for(lambda: self._failed or self._next_chunk == chunk_index)
            if self._failed:
                return
            begin, end = self._num_eager, self._num_eager + len(row)
            self._num_eager, self._next_chunk = end, chunk_index + 1
            self._iou[chunk_index] = chunk.iou
            self._condition.notify_all()
        if begin < end:
            chosen = torch.tensor(self._masks, device="cpu")[column]
            self._image.upscale(chunk, row, chosen, self._eager_logits[begin:end])
            self._eager_index[start + row, chosen] = torch.arange(begin, end, device="cpu")
        if self._masks or start + PROMPTS_PER_CHUNK > MAX_CACHED_PROMPTS:
            self._image.release_state(chunk)
        else:
            self._chunks[chunk_index] = chunk

    def predicted_iou(self) -> Tensor:  # (N, 4)
        iou = [self._iou[chunk_index] for chunk_index in range(self._next_chunk)]
        return torch.cat([self._eager_logits.new_empty(0, NUM_MASK_TOKENS), *iou])

    def logits(self, prompts: Sequence[int] | Tensor, masks: Sequence[int] | Tensor) -> Tensor:
        """Return low-resolution logits (K, 4h, 4w) of K pairs of a prompt in [0, N) and a mask token in [0, 4).

        The result may share memory with that of another call, so it must not be written to.
        """
        prompts, masks = (torch.as_tensor(x, dtype=torch.long, device="cpu") for x in (prompts, masks))
        eager_index = self._eager_index[prompts, masks]
        if len(eager_index) and int(eager_index[0]) >= 0 and bool((eager_index.diff() == 1).all()):
            return self._eager_logits[int(eager_index[0]) : int(eager_index[0]) + len(eager_index)]
        out = self._eager_logits.new_empty(len(prompts), *self._eager_logits.shape[1:])
        available = (eager_index >= 0).nonzero()[:, 0]
        out[available] = self._eager_logits[eager_index[available]]
        missing = (eager_index < 0).nonzero()[:, 0]
        for chunk in torch.unique(prompts[missing] // PROMPTS_PER_CHUNK).tolist():
            pairs = missing[prompts[missing] // PROMPTS_PER_CHUNK == chunk]
            out[pairs] = self._decode_pairs(chunk, prompts[pairs] % PROMPTS_PER_CHUNK, masks[pairs])
        return out

    def _decode_pairs(self, chunk: int, index: Tensor, masks: Tensor) -> Tensor:
        """Return the logits of pairs of one chunk that were not made at once."""
        out = self._eager_logits.new_empty(len(index), *self._eager_logits.shape[1:])
        if chunk in self._chunks:
            self._image.upscale(self._chunks[chunk], index, masks, out)
        else:
            prompts, index = torch.unique(index, return_inverse=True)
            decoded = self._image.decode_chunk(self._sparse[chunk * PROMPTS_PER_CHUNK + prompts], ())
            self._image.upscale(decoded, index, masks, out)
            self._image.release_state(decoded)
        return out
