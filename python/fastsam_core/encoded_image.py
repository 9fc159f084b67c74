"""`EncodedImage`: an image and its embedding; and the functions that encode images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._tensors import to_tensor
from .models.precision import Dtypes, usable_dtypes
from .models.prepared_image import PreparedImage
from .models.sam_model import SamModel
from .preprocess import preprocess, resized_shape
from .stopwatch import Stopwatch

Box = tuple[int, int, int, int]


class EncodedImage:
    """An image and its embedding.

    bgr: BGR uint8 (H, W, 3), or None if only a saved embedding was loaded; then `original_hw`, (height, width), is
    required, and `digest` is the hash of the image. path: where the image came from. own_encoder: computes the
    embedding of a BGR image, in place of `encode`.

    The embedding is computed on first use. It is computed again only after a change of the model's input size or
    precision, or of its weights (see `invalidate`).
    """

    def __init__(
        self,
        bgr: NDArray[np.uint8] | None,
        path: str,
        original_hw: tuple[int, int] | None = None,
        digest: str | None = None,
        own_encoder: Callable[[NDArray[np.uint8]], Tensor] | None = None,
    ) -> None:
        self.bgr = bgr
        self.own_encoder = own_encoder
        self.path = path
        if bgr is not None:
            original_hw = bgr.shape[0], bgr.shape[1]
        if original_hw is None:
            raise ValueError("an image needs its pixels or its (height, width)")
        self.original_hw = original_hw
        self._features: Tensor | None = None
        self._dtype: torch.dtype | None = None  # what `_features` was computed in; None if it was set from outside
        self._prepared: PreparedImage | None = None
        self._digest = digest

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Pixels, BGR uint8 (H, W, 3); black if only an embedding was loaded."""
        return np.zeros((*self.original_hw, 3), np.uint8) if self.bgr is None else self.bgr

    @property
    def features(self) -> Tensor | None:
        """Embedding, (1, C, S / 16, S / 16) float32; None if there is none yet."""
        return self._features

    @features.setter
    def features(self, features: Tensor | None) -> None:
        self._features = None if features is None else to_tensor(features).detach().float()
        self._dtype, self._prepared = None, None

    def invalidate(self, embedding: bool) -> None:
        """Drop what the decoder derived from the embedding, after a change of weights.

        embedding: also drop the embedding itself, unless it was set from outside.
        """
        if embedding and self._dtype is not None:
            self._features = None
        self._prepared = None

    @property
    def digest(self) -> str:
        """SHA-256 of height, width and BGR pixels. Raises ValueError if neither pixels nor a stored hash are there."""
        if self._digest is None:
            if self.bgr is None:
                raise ValueError("the image's pixels are not available, only its embedding")
            content = hashlib.sha256("{}x{}:".format(*self.original_hw).encode())
            content.update(np.ascontiguousarray(self.bgr).data)
            self._digest = content.hexdigest()
        return self._digest

    def resized_hw(self, model: SamModel) -> tuple[int, int]:
        """Return (height, width) of the resized image inside the model's padded input."""
        return resized_shape(*self.original_hw, model.image_size)

    def is_encoded(self, model: SamModel, dtype: torch.dtype | None = None) -> bool:
        """Return whether there is an embedding that fits the model's current input size and `dtype`.

        An embedding that was set from outside fits any type.
        """
        return (
            self._features is not None
            and self._features.shape[-1] == model.image_size // 16
            and self._dtype in (None, _encoder_dtype(model, dtype))
        )

    @torch.no_grad()
    def prepared(
        self, model: SamModel, dtype: torch.dtype | None = None, watch: Stopwatch | None = None
    ) -> PreparedImage:
        """Return the embedding prepared for the model's decoder; encode the image first if needed.

        dtype: the type to compute in; default that of the weights. Raises ValueError if the image has to be encoded but
        its pixels are not available.
        """
        device = model.device
        if not self.is_encoded(model, dtype):
            if self.bgr is None:
                raise ValueError(
                    f"the loaded embedding does not fit the model's input size {model.image_size}, and without the "
                    "image it cannot be computed again: call set_image"
                )
            self._features = self._encode(model, self.bgr, dtype, watch)
            self._dtype, self._prepared = _encoder_dtype(model, dtype), None
        assert self._features is not None
        if self._features.device != device:
            self._features, self._prepared = self._features.to(device), None
        _, decoder, matrices = _compute_dtypes(model, dtype)
        dtypes = decoder or model.dtype, matrices or torch.float32
        if self._prepared is None or (self._prepared.dtype, self._prepared.matrices) != dtypes:
            self._prepared = model.prepare(self._features, *dtypes)
        return self._prepared

    @torch.no_grad()
    def prepared_crop(
        self, model: SamModel, box: Box, dtype: torch.dtype | None = None, watch: Stopwatch | None = None
    ) -> PreparedImage:
        """Return the prepared embedding of a crop x1, y1, x2, y2, encoded on its own.

        A crop that covers the whole image reuses the embedding of the image. Raises ValueError without pixels.
        """
        x1, y1, x2, y2 = box
        if (y1, x1, y2, x2) == (0, 0, *self.original_hw):
            return self.prepared(model, dtype, watch)
        if self.bgr is None:
            raise ValueError("crops need the image itself, but only its embedding was loaded: call set_image")
        features = self._encode(model, self.bgr[y1:y2, x1:x2], dtype, watch)
        _, decoder, matrices = _compute_dtypes(model, dtype)
        return model.prepare(features, decoder, matrices)

    def _encode(
        self, model: SamModel, bgr: NDArray[np.uint8], dtype: torch.dtype | None, watch: Stopwatch | None
    ) -> Tensor:
        if self.own_encoder is None:
            return encode(model, [bgr], dtype, watch)
        with (watch or Stopwatch()).phase("inference", model.device):
            return to_tensor(self.own_encoder(bgr)).float()


def encode_batch(
    model: SamModel, images: Sequence[EncodedImage], dtype: torch.dtype | None, watch: Stopwatch | None = None
) -> None:
    """Encode the images that have no fitting embedding yet, in one pass of the encoder."""
    pending = [
        image
        for image in images
        if image.bgr is not None and image.own_encoder is None and not image.is_encoded(model, dtype)
    ]
    if not pending:
        return
    features = encode(model, [image.pixels for image in pending], dtype, watch)
    for image, embedding in zip(pending, features.split(1), strict=True):
        image._features, image._dtype, image._prepared = embedding, _encoder_dtype(model, dtype), None


def _compute_dtypes(model: SamModel, dtype: torch.dtype | None) -> Dtypes:
    """Return the types that the parts of the model compute in on its device when `dtype` is asked for."""
    return usable_dtypes(dtype, model.device, model.image_encoder)


def _encoder_dtype(model: SamModel, dtype: torch.dtype | None) -> torch.dtype:
    return _compute_dtypes(model, dtype).encoder or model.dtype


def model_input(model: SamModel, image: NDArray[np.uint8]) -> Tensor:
    """Convert a BGR uint8 image (H, W, 3) to the model input (1, 3, S, S) float32 on the model's device.

    The image is resized, normalised and padded.
    """
    return preprocess(image[..., ::-1], model.image_size, model.device, *model.normalisation)[0]


def encode(
    model: SamModel,
    images: Sequence[NDArray[np.uint8]],
    dtype: torch.dtype | None = None,
    watch: Stopwatch | None = None,
) -> Tensor:
    """Encode B images, BGR uint8 (H, W, 3), to embeddings (B, C, S / 16, S / 16) float32.

    dtype: the type that the image encoder computes in; default that of its weights.
    """
    watch = watch or Stopwatch()
    device = model.device
    with watch.phase("preprocess", device):
        inputs = [model_input(model, image) for image in images]
        pixels = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
    del inputs
    with watch.phase("inference", device):
        return encode_input(model, pixels, dtype)


@torch.no_grad()
def encode_input(model: SamModel, pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Encode model inputs (B, 3, S, S) to embeddings (B, C, S / 16, S / 16) float32. dtype: as for `encode`."""
    return model.encode_image(pixels, _compute_dtypes(model, dtype).encoder).float()
