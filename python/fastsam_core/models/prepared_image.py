"""An image's embedding, and the choice of the decoder form that decodes prompts on it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .._tensors import to_tensor
from .decoder_folded import FoldedImage
from .decoder_gpu import GpuImage, can_use_decoder_kernels
from .decoder_tiled import TiledImage
from .mask_decoder import MaskDecoder
from .module_cache import cached, is_capturing
from .native import can_use_native, has_original_methods, is_unmodified, uses_patched_classes
from .precision import dtype_of, in_dtype
from .prompt_encoder import PromptEncoder

if TYPE_CHECKING:
    from .sam_model import SamModel

# Up to this many prompts are decoded by the plain decoder on a GPU, unless the chain of kernels can take them: per
# prompt the other forms launch more small steps, and the GPU time they save is negligible here.
_MAX_PLAIN_PROMPTS_ON_GPU = 4

ImageDecoder = FoldedImage | GpuImage | TiledImage


class PreparedImage:
    """An image embedding, and what the decoder derives from it once for many prompts (see `SamModel.prepare`)."""

    def __init__(
        self,
        model: SamModel,
        embedding: Tensor,
        dtype: torch.dtype | None = None,
        matrices: torch.dtype | None = None,
    ) -> None:
        if matrices not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"matrices must be torch.float32 or torch.bfloat16, not {matrices!r}")
        grid = model.prompt_encoder.grid_size
        channels = model.prompt_encoder.embed_dim
        if embedding.shape != (1, channels, grid, grid):
            raise ValueError(
                f"the embedding has shape {tuple(embedding.shape)}, but {model.name} at image size "
                f"{model.image_size} takes (1, {channels}, {grid}, {grid})"
            )
        self.decoder = cast(MaskDecoder, in_dtype(model.mask_decoder, dtype))
        self.dtype, self.matrices = dtype_of(self.decoder), matrices or torch.float32
        self.embedding = to_tensor(embedding).to(self.dtype)
        self.position, self.no_mask = _shared_embeddings(model.prompt_encoder, self.dtype)
        self._is_standard = is_unmodified(self.decoder) and self.decoder.is_standard()
        self._image_decoder: ImageDecoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what can be recomputed."""
        return {**self.__dict__, "_image_decoder": None}

    @property
    def image_decoder(self) -> ImageDecoder | None:
        """The decoder form for inference without gradients, made at first use; native where possible.

        None for a decoder with hooks or with foreign layers or methods, which only a call of the decoder itself runs.
        """
        return self._get_image_decoder(self._image_decoder_type())

    def image_decoder_for(self, count: int) -> ImageDecoder | None:
        """Return `image_decoder`, or None if the plain decoder is faster for `count` prompts."""
        decoder_type = self._image_decoder_type()
        uses_chain = decoder_type is GpuImage and self.dtype != torch.float32
        if count <= _MAX_PLAIN_PROMPTS_ON_GPU and _on_gpu(self.embedding) and not uses_chain:
            return None
        return self._get_image_decoder(decoder_type)

    def warm_up(self) -> None:
        """Compute in advance what the first click needs."""
        image = self.image_decoder_for(1)
        if isinstance(image, GpuImage):
            _ = image.features

    def _image_decoder_type(self) -> type[ImageDecoder] | None:
        """Return the form to use under the current modes; None if the decoder isn't the usual one."""
        # Classes may have been patched since `_is_standard` was determined.
        is_patched = uses_patched_classes(self.decoder)
        if is_patched or not (self._is_standard and has_original_methods(self.decoder, MaskDecoder, "predict_masks")):
            return None
        tensors = self.embedding, self.position, self.no_mask, self.decoder.iou_token.weight
        if can_use_native(*tensors):
            return TiledImage
        return GpuImage if can_use_decoder_kernels(self.decoder, *tensors) else FoldedImage

    def _get_image_decoder(self, decoder_type: type[ImageDecoder] | None) -> ImageDecoder | None:
        """Return the stored form if it is of this kind, else make one."""
        if decoder_type is None:
            return None
        if isinstance(self._image_decoder, decoder_type):
            return self._image_decoder
        args = self.decoder, self.embedding, self.position, self.no_mask
        device = self.embedding.device.type
        # The form may outlive the autocast context.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            made = TiledImage(*args, self.matrices) if decoder_type is TiledImage else decoder_type(*args)
        if not is_capturing():  # tensors made in a capture hold nothing before the replay
            self._image_decoder = made
        return made


def _on_gpu(embedding: Tensor) -> bool:
    """Return whether a tensor is on a GPU. A function of its own, so that tests can replace it."""
    return embedding.is_cuda


def _shared_embeddings(encoder: PromptEncoder, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the position embedding of the image tokens and the embedding of "no mask prompt".

    All images of a size share them.
    """

    def make() -> tuple[Tensor, Tensor]:
        return encoder.get_dense_pe().to(dtype), encoder.dense(None).to(dtype)

    if encoder.training or torch.is_grad_enabled() or not encoder.has_standard_positions():
        return make()

    def made() -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            return make()

    return cached(encoder, ("shared", encoder.grid_size, dtype), made, if_versioned=True)
