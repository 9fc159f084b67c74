"""A picture on its way through the model: its pixels, and its embedding once that is computed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._log import warn_once
from .models.sam_model import PreparedImage, SamModel
from .preprocess import preprocess, resized_shape

Box = tuple[int, int, int, int]


class Stopwatch:
    """Milliseconds per phase. A phase inside another stops the outer one while it runs."""

    def __init__(self) -> None:
        self.speed: dict[str, float] = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        self._phase: str | None = None
        self._since = 0.0
        self._queued: list[tuple[str, str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Time what runs inside; `device` is waited for, as CUDA works in the background."""
        outer = self._phase
        self._switch(name)
        try:
            yield
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
                self._settle()
        finally:
            self._switch(outer)

    @contextmanager
    def queued(self, name: str, device: torch.device) -> Iterator[None]:
        """As `phase`, but a GPU is not waited for: what it takes for this is taken off the surrounding phase later."""
        if device.type != "cuda" or self._phase is None:
            with self.phase(name):
                yield
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(torch.cuda.current_stream(device))
        yield
        end.record(torch.cuda.current_stream(device))
        self._queued.append((self._phase, name, begin, end))

    def _settle(self) -> None:
        for outer, name, begin, end in self._queued:
            spent = begin.elapsed_time(end)
            self.speed[name] += spent
            self.speed[outer] -= spent
        self._queued.clear()

    def _switch(self, name: str | None) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            self.speed[self._phase] += 1000 * (now - self._since)
        self._phase, self._since = name, now


class Picture:
    """One picture and its embedding.

    image: BGR uint8 (H, W, 3), or None when only a saved embedding was loaded, with `original_hw` and `digest`. path:
    where it came from.
    The embedding is computed when it is first needed, and again only when the model's input size, device or precision
    has changed since.
    """

    def __init__(
        self,
        image: NDArray[np.uint8] | None,
        path: str,
        original_hw: tuple[int, int] | None = None,
        digest: str | None = None,
    ) -> None:
        self.image = image
        self.path = path
        if image is not None:
            original_hw = image.shape[0], image.shape[1]
        if original_hw is None:
            raise ValueError("a picture needs its pixels or its (height, width)")
        self.original_hw = original_hw
        self._features: Tensor | None = None
        self._precision: bool | None = None  # whether computed in half precision; None: given from outside
        self._prepared: PreparedImage | None = None
        self._digest = digest

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture, or a black one in its place where only an embedding was loaded."""
        return np.zeros((*self.original_hw, 3), np.uint8) if self.image is None else self.image

    @property
    def features(self) -> Tensor | None:
        """The embedding (1, C, S / 16, S / 16) float32, if there is one yet."""
        return self._features

    @features.setter
    def features(self, features: Tensor | None) -> None:
        self._features = None if features is None else features.detach().float()
        self._precision, self._prepared = None, None

    @property
    def digest(self) -> str:
        """sha256 over height, width and BGR pixels."""
        if self._digest is None:
            if self.image is None:
                raise ValueError("the picture's pixels are not here, only its embedding")
            content = hashlib.sha256("{}x{}:".format(*self.original_hw).encode())
            content.update(np.ascontiguousarray(self.image).data)
            self._digest = content.hexdigest()
        return self._digest

    def resized_hw(self, model: SamModel) -> tuple[int, int]:
        """(height, width) of the picture inside the model's input."""
        return resized_shape(*self.original_hw, model.image_size)

    def prepared(self, model: SamModel, half: bool = False, watch: Stopwatch | None = None) -> PreparedImage:
        """The embedding as the model's decoder takes it.

        ValueError when it has to be computed but the pixels are not here.
        """
        grid, device = model.image_size // 16, model.device
        half = half and can_run_half(device)
        usable = self._features is not None and self._features.shape[-1] == grid and self._precision in (None, half)
        if not usable:
            if self.image is None:
                raise ValueError(
                    f"the loaded embedding does not fit the model's input size {model.image_size}, and without the "
                    "picture it cannot be computed again: call set_image"
                )
            self._features = encode(model, self.image, half, watch)
            self._precision, self._prepared = half, None
        assert self._features is not None
        if self._features.device != device:
            self._features, self._prepared = self._features.to(device), None
        if self._prepared is None:
            self._prepared = model.prepare(self._features)
        return self._prepared

    def prepared_crop(
        self, model: SamModel, box: Box, half: bool = False, watch: Stopwatch | None = None
    ) -> PreparedImage:
        """The same for a crop x1, y1, x2, y2 of the picture, encoded on its own. The whole picture's is reused."""
        x1, y1, x2, y2 = box
        if (y1, x1, y2, x2) == (0, 0, *self.original_hw):
            return self.prepared(model, half, watch)
        if self.image is None:
            raise ValueError("crops need the picture itself, but only its embedding was loaded: call set_image")
        return model.prepare(encode(model, self.image[y1:y2, x1:x2], half and can_run_half(model.device), watch))


def can_run_half(device: torch.device) -> bool:
    """Whether half precision is of use on `device`; says so once where it isn't."""
    if device.type == "cuda":
        return True
    warn_once(f"half precision is for CUDA devices; on {device.type} everything runs in float32")
    return False


def model_input(model: SamModel, image: NDArray[np.uint8]) -> Tensor:
    """BGR uint8 (H, W, 3) -> (1, 3, S, S) float32, resized, normalised and padded, on the model's device."""
    return preprocess(image[..., ::-1], model.image_size, model.device)[0]


def encode(model: SamModel, image: NDArray[np.uint8], half: bool = False, watch: Stopwatch | None = None) -> Tensor:
    """BGR uint8 (H, W, 3) -> embedding (1, C, S / 16, S / 16) float32.

    half: run the image encoder in float16 under autocast. Coordinates and the decoder stay float32.
    """
    watch = watch or Stopwatch()
    device = model.device
    with watch.phase("preprocess", device):
        pixels = model_input(model, image)
    with watch.phase("inference", device), torch.no_grad(), torch.autocast("cuda", torch.float16, enabled=half):
        return model.encode_image(pixels).float()
