"""A complete Segment Anything model: image encoder, prompt encoder and mask decoder, and how they are run together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ops._native_cuda import has_ample_memory
from ..ops._threads import native_threads, parallel_for, thread_count
from . import decoder_gpu, decoder_tiled
from .common import PIXEL_MEAN, PIXEL_STD, Normalisation, to_device
from .decoder_calls import PromptTensors, decode_folded, decode_in_chunks
from .decoder_folded import MAX_FOLDED_TOKENS, gpu_chunk_size
from .decoder_gpu import can_use_decoder_kernels
from .decoder_tiled import TiledImage
from .mask_decoder import MaskDecoder
from .mask_scoring import OFFICIAL
from .module_cache import cached, evict_stale, is_capturing, stream_key
from .native import can_use_native, is_unmodified
from .precision import dtype_of
from .prepared_image import PreparedImage
from .prompt_encoder import PromptEncoder
from .replay import encode
from .speculative import run_in_dtype

# Default number of grid points decoded together, as in the reference. With GPU kernels more are decoded, because a
# launch costs the same for any number. They take some 1.3 GiB more, so not on a GPU with little memory. On a CPU each
# of a few threads gets a chunk, which takes about 57 MiB with SAM's decoder and up to 24 MiB for its logits.
_POINTS_PER_BATCH = 64
_MAX_POINTS_PER_BATCH_ON_CPU = 128

# PyTorch uses threads from 2^15 values on; a prompt has some 2,000.
_MAX_SINGLE_THREADED_PROMPTS = 8

# Grids of points whose tokens are cached; one of 32 x 32 takes 1 MiB in half precision.
_MAX_CACHED_GRIDS = 8

IndexList = Sequence[int] | Tensor


def _to_index_tensor(index: IndexList) -> Tensor:
    """Return indices as int64. For a list of 1,024 numbers NumPy is three to seven times as fast as PyTorch."""
    return index.long() if isinstance(index, Tensor) else torch.from_numpy(np.array(index, np.int64))


def _native_threads_context(tensor: Tensor, num_prompts: int) -> AbstractContextManager[None]:
    """Return a context that keeps PyTorch's threads out of the way if native operations do the work on `tensor`.

    With few prompts it does nothing, since no step of PyTorch's is then large enough for a second thread.
    """
    return native_threads() if num_prompts > _MAX_SINGLE_THREADED_PROMPTS and can_use_native(tensor) else nullcontext()


class SamModel(nn.Module):
    """A Segment Anything model.

    Module names, and so the keys of its state dict, are those of the official checkpoints. The model computes in the
    dtype of its weights, or in another that a call requests. Coordinates are always float32, and so are the returned
    low-resolution logits and predicted IoU.

    name: a row of `models.registry`. image_size: the long side S of the model input, a multiple of 16.
    mask_scoring: how to score and filter its masks; that of the official models unless set.
    """

    mask_scoring = OFFICIAL
    mask_threshold: float = 0.0  # threshold on logits
    needs_prompt = True  # whether `decode_prompts` refuses a call without prompts
    _size: int | None = None  # input size of a model returned by `at_image_size`

    def __init__(
        self, name: str, image_encoder: nn.Module, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder
    ) -> None:
        super().__init__()
        self.name = name
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.default_image_size = prompt_encoder.image_size  # default input size, for calls without another one
        self._sized_prompt_encoders: dict[int, PromptEncoder] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SamModel:
        """Convert or move as for any module, with two additions.

        A move in inference mode, e.g. by a first call there, doesn't turn the weights into inference tensors, since
        PyTorch doesn't count changes of those and nothing derived from them could be cached. Cached copies in another
        dtype are dropped at once, so that they don't stay on a GPU that the model has left.
        """
        first = next(self.parameters(), None)  # the decoder may have been deleted
        is_versioned = first is None or not first.is_inference()
        with torch.inference_mode(False) if is_versioned else nullcontext():
            super()._apply(fn, recurse)
        evict_stale(self)
        return self

    @property
    def image_size(self) -> int:
        """Long side S of the model input."""
        return self.prompt_encoder.image_size

    def set_image_size(self, size: int) -> None:
        """Set the size of the inputs. Raises ValueError unless it is a positive multiple of 16.

        Learnt position tables stay as they are and are resampled when they are used.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 16 or size % 16:
            raise ValueError(f"image_size must be a positive multiple of 16, not {size!r}")
        self.default_image_size = size
        self._apply_image_size(size)

    def _apply_image_size(self, size: int) -> None:
        """Set the size of the inputs without changing `default_image_size`."""
        self.prompt_encoder.input_image_size = size, size
        self.prompt_encoder.image_embedding_size = size // 16, size // 16

    def at_image_size(self, size: int) -> SamModel:
        """Return a model that shares all layers with this one but has an input size of its own.

        Other threads may then use other sizes at the same time.
        """
        original, sized = self.prompt_encoder, self._sized_prompt_encoders.get(size)
        if type(sized) is not type(original):
            sized = self._sized_prompt_encoders[size] = object.__new__(type(original))
        sizes = {"image_size": size, "grid_size": size // 16, "mask_input_size": (size // 4, size // 4)}
        state = {**vars(original), **sizes}
        for name in vars(sized).keys() - state:
            vars(sized).pop(name, None)
        vars(sized).update(state)
        model = object.__new__(type(self))
        modules = {**self._modules, "prompt_encoder": sized}
        vars(model).update({**vars(self), "_modules": modules, "_size": size})
        return model

    def set_imgsz(self, imgsz: int | Sequence[int]) -> None:
        """Set the size of the inputs by Ultralytics' name and form: (S, S), or S alone."""
        sides = [imgsz] if isinstance(imgsz, int) else list(imgsz)
        if len(sides) not in (1, 2) or sides[0] != sides[-1]:
            raise ValueError(f"imgsz must be S or (S, S), as the model's input is square, not {imgsz!r}")
        self.set_image_size(sides[0])

    @property
    def device(self) -> torch.device:
        return self.prompt_encoder.no_mask_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point dtype of the weights."""
        return dtype_of(self.mask_decoder)

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the red, green and blue values, by which pixels are normalised."""
        return PIXEL_MEAN, PIXEL_STD

    @torch.no_grad()
    def points_per_batch(self, dtype: torch.dtype | None = None) -> int:
        """Return how many points of a grid to decode together in `dtype` (by default that of the weights).

        * 64 in general.
        * Native operations on the CPU: 32 per thread, but at least 64 and at most 128.
        * GPU kernels: 1,024, in float32 512, if the GPU has 8 GiB or more.
        * PyTorch on a GPU: as many as have 256 MiB of image tokens (64 MiB if the GPU has less than 8 GiB), but
          at least 64 and at most 1,024. For `sam_nano` in float32 that is 512.
        """
        decoder = self.mask_decoder
        if not (is_unmodified(decoder) and decoder.is_standard()):
            return _POINTS_PER_BATCH
        probe = decoder.iou_token.weight.new_empty(1, self.prompt_encoder.embed_dim, 1, 1, dtype=dtype)
        if can_use_native(decoder.iou_token.weight):  # native: its state is float32, whatever `dtype` says
            chunks = decoder_tiled.PROMPTS_PER_CHUNK * thread_count()
            return min(_MAX_POINTS_PER_BATCH_ON_CPU, max(_POINTS_PER_BATCH, chunks))
        if not probe.is_cuda:
            return _POINTS_PER_BATCH
        if not can_use_decoder_kernels(decoder, probe):
            nbytes = self.prompt_encoder.grid_size**2 * probe.shape[1] * probe.element_size()
            return max(_POINTS_PER_BATCH, gpu_chunk_size(nbytes, probe.device))
        return decoder_gpu.prompts_per_chunk(probe.dtype) if has_ample_memory(probe.device) else _POINTS_PER_BATCH

    def encode_image(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Encode normalised, padded images (B, 3, S, S) to embeddings (B, C, S / 16, S / 16).

        dtype: float32, float16 or bfloat16, in which to compute and to return the result; by default the dtype of the
        weights. Another dtype is for inference, with a cached copy of the weights (`precision.in_dtype`).

        With FASTSAM_CUDA_GRAPHS=1, one or two images at a time on a GPU are encoded by a CUDA graph after the third
        call (see `replay`). Raises ValueError for another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, but {self.name} takes (B, 3, {self.image_size}, "
                f"{self.image_size}); preprocess() makes them"
            )
        return run_in_dtype(self.image_encoder, dtype, images, lambda encoder: encode(encoder, images))

    def prepare(
        self, embedding: Tensor, dtype: torch.dtype | None = None, matrices: torch.dtype | None = None
    ) -> PreparedImage:
        """Wrap an embedding (1, C, S / 16, S / 16) for many prompts; what they share is computed once.

        dtype: the dtype to decode in, as for `encode_image`. matrices: with bfloat16, the native float32 operations
        upscale masks with bfloat16 matrices, which halves the work on CPUs with AVX512-BF16. The predicted IoU stays
        the same. Other forms of the decoder ignore it.
        """
        return PreparedImage(self, embedding, dtype, matrices)

    def decode_prompts(
        self,
        embedding: Tensor | PreparedImage,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Decode the masks of N prompts on one image. At least one kind of prompt must be given if `needs_prompt`.

        Args:
            embedding: the image's embedding, wrapped by `prepare` or not.
            points: (N, P, 2) float32 x, y in pixels of the model input.
            labels: (N, P): 1 foreground, 0 background, -1 not a point. The values are not checked.
            boxes: (N, 4) x1, y1, x2, y2.
            masks: logits (N, 1, S / 4, S / 4).
            multimask_output: whether to return three masks per prompt, for ambiguous prompts, instead of one.

        Returns:
            Low-resolution logits (N, M, S / 4, S / 4) float32 and predicted IoU (N, M), where M is 3 or 1. The
            predicted IoU is that of `mask_scoring.predicted_iou`.

        Raises:
            ValueError: no prompt, shapes other than these, or prompts for different numbers of objects.
        """
        prompts = PromptTensors(points, labels, boxes, masks)
        if prompts.is_empty():
            if self.needs_prompt:
                raise ValueError("no prompt: give points, boxes or masks")
            return self._decode_without_prompts(embedding, multimask_output)
        prompts.check(self.image_size)
        image = embedding if isinstance(embedding, PreparedImage) else self.prepare(embedding)
        logits, decoder_iou = self._decode(image, prompts, multimask_output)
        clipped = self.mask_scoring.clip_to_boxes(logits, boxes, points, labels)
        return clipped, self.mask_scoring.predicted_iou(decoder_iou, logits)

    def _decode_without_prompts(
        self, embedding: Tensor | PreparedImage, multimask_output: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Decode one object from the image alone, as models do that were fine-tuned to need no prompt.

        Returns what `decode_prompts` does, for N = 1. Without such training the masks mean little.
        """
        image = embedding if isinstance(embedding, PreparedImage) else self.prepare(embedding)
        logits, decoder_iou = decode_in_chunks(image, self.prompt_encoder, PromptTensors(), multimask_output)
        return logits, self.mask_scoring.predicted_iou(decoder_iou, logits)

    def _decode(self, image: PreparedImage, prompts: PromptTensors, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Return the decoder's logits (N, M, S / 4, S / 4) and its predicted IoU (N, M); M is 3 or 1."""
        points, labels, boxes, masks = prompts
        count = prompts.num_objects
        if count == 0:
            side = self.image_size // 4
            shape = (0, 3 if multimask_output else 1)
            scores = torch.zeros(shape, dtype=torch.float32, device=self.device)
            return scores.new_zeros(*shape, side, side), scores
        # Only the native CPU form takes mask prompts, so no other form is made for them.
        allow_folded = not torch.is_grad_enabled() and (masks is None or can_use_native(image.embedding))
        is_usual = self.prompt_encoder.has_standard_forward()
        folded = image.image_decoder_for(count) if is_usual and allow_folded else None
        if folded is not None:
            with _native_threads_context(image.embedding, count):
                sparse = self.prompt_encoder.sparse(points, labels, boxes).expand(count, -1, -1).to(image.dtype)
                if sparse.shape[1] <= MAX_FOLDED_TOKENS:
                    if masks is None:
                        return decode_folded(folded, sparse, multimask_output)
                    if isinstance(folded, TiledImage) and self.prompt_encoder.has_standard_mask_layers():
                        return self._decode_masked(folded, sparse, masks, multimask_output)
        return decode_in_chunks(image, self.prompt_encoder, prompts, multimask_output)

    def decode_points(
        self, embedding: Tensor | PreparedImage, points: Tensor, labels: Tensor, iou_threshold: float | None = None
    ) -> tuple[Tensor, Callable[[IndexList, IndexList], Tensor]]:
        """Decode three masks per prompt of points, but compute only the masks that are chosen afterwards.

        Args:
            embedding: the image's embedding, wrapped by `prepare` or not.
            points: (N, P, 2) as in `decode_prompts`, but on any device.
            labels: (N, P) as in `decode_prompts`, but on any device.
            iou_threshold: if given, a hint that the masks with a greater predicted IoU will be chosen; those then take
                less time, and others more.

        Returns:
            The IoU that the decoder predicts, (N, 3) float32, and a callable logits(point_index, mask_index) that
            returns the logits (K, S / 4, S / 4) float32 of K chosen pairs, less `mask_threshold`. These must not be
            written to: on the CPU another call may return the same memory. Decoders of another kind may have other
            numbers of masks than 3.
        """
        iou, logits = self._decode_points(embedding, points, labels, iou_threshold)
        if self.mask_threshold == 0:
            return iou, logits
        return iou, lambda point_index, mask_index: logits(point_index, mask_index) - self.mask_threshold

    def _decode_points(
        self, embedding: Tensor | PreparedImage, points: Tensor, labels: Tensor, iou_threshold: float | None
    ) -> tuple[Tensor, Callable[[IndexList, IndexList], Tensor]]:
        """Implement `decode_points`, whose logits are those of the decoder here."""
        image = embedding if isinstance(embedding, PreparedImage) else self.prepare(embedding)
        with torch.no_grad():
            folded = image.image_decoder if len(points) and self.prompt_encoder.has_standard_forward() else None
        if folded is None:
            points, labels = (x.to(image.embedding.device) for x in (points, labels))
            with torch.no_grad():
                masks, iou = self._decode(image, PromptTensors(points, labels), multimask_output=True)
            return iou, lambda point_index, mask_index: masks[
                _to_index_tensor(point_index), _to_index_tensor(mask_index)
            ]
        with torch.no_grad(), _native_threads_context(image.embedding, len(points)):
            sparse = self._point_tokens(image, points, labels)
            decoded = folded.decode(sparse, () if iou_threshold is None else (1, 2, 3), iou_threshold)
            iou = decoded.predicted_iou()[:, 1:].float()

        def logits(point_index: IndexList, mask_index: IndexList) -> Tensor:
            with torch.no_grad(), _native_threads_context(image.embedding, len(points)):
                return decoded.logits(_to_index_tensor(point_index), _to_index_tensor(mask_index) + 1).float()

        return iou, logits

    def _point_tokens(self, image: PreparedImage, points: Tensor, labels: Tensor) -> Tensor:
        """Return the tokens (N, T, C) of prompts of points.

        Those of a grid, which is the same for all images of a size, are cached if the points come from the CPU and
        PyTorch computes the tokens: on a GPU that takes dozens of small launches.
        """
        encoder, device = self.prompt_encoder, image.embedding.device

        def make() -> Tensor:
            device_points, device_labels = (
                to_device(x, device) if x.is_cpu else x.to(device) for x in (points, labels)
            )
            return encoder.sparse(device_points, device_labels, None).to(image.dtype)

        is_cacheable = (
            (points.is_cpu and labels.is_cpu and points.dtype == torch.float32)
            and not can_use_native(image.embedding)
            and encoder.has_standard_points()
        )
        if not is_cacheable or encoder.training or torch.is_autocast_enabled(device.type):
            return make()
        cached_tokens: dict[Any, Tensor] = cached(
            encoder, ("points", encoder.image_size, image.dtype), dict, if_versioned=True
        )
        key = stream_key(device), points.shape, points.numpy().tobytes(), labels.dtype, labels.numpy().tobytes()
        tokens = cached_tokens.get(key)
        if tokens is None:
            with torch.inference_mode(False), torch.no_grad():
                tokens = make()
            while len(cached_tokens) >= _MAX_CACHED_GRIDS:
                cached_tokens.pop(next(iter(cached_tokens)), None)
            if not is_capturing():
                cached_tokens[key] = tokens
        return tokens

    def _decode_masked(
        self, image: TiledImage, sparse: Tensor, masks: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode as `decode_folded` does, for prompts with a mask each, whose image features therefore differ."""
        decoded: dict[int, tuple[Tensor, Tensor]] = {}
        with native_threads():
            with_mask = image.with_masks(self.prompt_encoder.mask_projection())

            def decode(i: int) -> None:
                channels = self.prompt_encoder.mask_hidden_channels(masks[i : i + 1])
                with with_mask(channels[0]) as masked:
                    decoded[i] = decode_folded(masked, sparse[i : i + 1], multimask_output)

            parallel_for(decode, len(sparse))
        logits, iou = zip(*(decoded[i] for i in range(len(sparse))), strict=True)
        return torch.cat(logits), torch.cat(iou)
