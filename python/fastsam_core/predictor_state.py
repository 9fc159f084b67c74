"""A model and its current image: loading, moving between devices, encoding once, saving and loading embeddings."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import embeddings
from .config import Config
from .device import select_device
from .encoded_image import EncodedImage, encode_input, model_input
from .models.module_cache import WeightSnapshot
from .models.native import has_original_methods, watch_methods
from .models.sam_model import SamModel
from .models.wrappers import unwrapped
from .prediction_loop import Callback, PredictionLoop
from .sources import load_sources

# Methods that subclasses may override to change what is encoded, and how.
_ENCODER_STEPS = ("pre_transform", "preprocess", "get_im_features")


class PredictorState(PredictionLoop):
    """State of a `Predictor`: its model and the image that is set. args, callbacks: see `PredictionLoop`.

    Calls that run the model or set an image hold the lock, so that threads take turns.
    """

    def __init__(self, args: Config, callbacks: dict[str, list[Callback]] | None = None) -> None:
        super().__init__(args, callbacks)
        self.model: SamModel | None = None
        self.current_image: EncodedImage | None = None
        # The last output of `preprocess`, the image that it was made from, and its `_version`.
        self._last_input: tuple[weakref.ref[Tensor], EncodedImage, int | None] | None = None
        # Of the image encoder, and of the other modules.
        self._weight_snapshots: tuple[WeightSnapshot, WeightSnapshot] | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._weight_snapshots is not None:
            self._invalidate_if_changed()  # the copy's tensors count their changes from now on
        return {**super().__getstate__(), "_last_input": None, "_weight_snapshots": None}

    # --- the model ---

    def setup_model(self, model: str | os.PathLike[str] | SamModel | None = None, verbose: bool = True) -> None:
        """Set the model to `model`, by default that of `get_model`, in evaluation mode.

        A name or path is loaded onto the device of the options; a `SamModel` is taken as it is. A different model
        resets the image that is set. `verbose` has no effect. Raises ValueError if no model is named, and TypeError for
        anything but a name, path or `SamModel`.
        """
        with self._lock:
            module = self._load_model(self.get_model() if model is None else model)
            if self.model is not None and self.model is not module:
                self.reset_image()
            self.model = module

    def get_model(self) -> Any:
        """Return the model of the options; subclasses may return another. Raises ValueError if none is named."""
        if self.args.model is None:
            raise ValueError('no model: name one, as in Predictor(overrides=dict(model="sam_b.pt"))')
        return self._load_model(self.args.model)

    def _load_model(self, model: Any) -> SamModel:
        model = unwrapped(model)
        if isinstance(model, SamModel):
            return model.eval()
        if isinstance(model, str | os.PathLike):
            from .models.checkpoint import load_model

            return load_model(model, device=select_device(self.args.device))
        raise TypeError(f"model must be a checkpoint's name or path or a SamModel, not {type(model).__name__}")

    @property
    def imgsz(self) -> int | None:
        """Side of the model's square input in pixels; None before the model is loaded."""
        return None if self.model is None else self._ready_model(self.args).image_size

    def _ready_model(self, config: Config) -> SamModel:
        """Return the model that the options ask for: loaded, in evaluation mode, on the device, at the input size."""
        with self._lock:
            if self.model is None:
                self.setup_model()
            assert self.model is not None
            device = select_device(config.device, current=self.model.device)
            if self.model.device != device:
                self.model.to(device)
            # In training mode each prediction would update the running statistics of batch normalisation. Only the top
            # modules are checked: checking all of them takes half as long as a GPU needs for a click.
            if any(part.training for part in (self.model, *self.model.children())):
                self.model.eval()
            size = config.imgsz or self.model.default_image_size
            self.model._apply_image_size(size)  # for callers that use the model's modules directly
            return self.model.at_image_size(size)

    # --- the image ---

    def set_image(self, image: Any) -> None:
        """Set one image (path, URL, BGR array, Pillow image or RGB tensor) and encode it, for the calls that follow.

        Later calls encode it again if the weights have changed in place, as far as PyTorch's version counters show it:
        changes through `.data` are not noticed. Raises ValueError unless `image` is exactly one image; the image that
        was set before then stays.
        """
        encoded = self._load_image(image)
        with self._lock:
            self._invalidate_if_changed()
            self._set_prepared(encoded)

    def _set_prepared(self, image: EncodedImage) -> None:
        """Set the image, encoded and prepared now, so that the first click doesn't have to wait for it."""
        self._weight_snapshots = self._snapshot_weights()  # tensors may also have been replaced
        prepared = image.prepared(self._ready_model(self.args), self.args.dtype)
        with torch.no_grad():
            prepared.warm_up()
        self.current_image = image

    def reset_image(self) -> None:
        """Clear the image that is set, and its embedding."""
        with self._lock:
            self.current_image = self._last_input = self._weight_snapshots = None

    @property
    def im(self) -> Tensor | None:
        """Model input for the image that is set, (1, 3, S, S) float32, as `preprocess` returns it; None without one."""
        image = self.current_image
        if image is None or image.bgr is None:
            return None
        return self._remember_input(self.preprocess([image.bgr]), image)

    @property
    def features(self) -> Tensor | None:
        """Embedding of the image that is set, (1, C, S / 16, S / 16) float32; None without one."""
        return None if self.current_image is None else self.current_image.features

    @features.setter
    def features(self, features: Tensor | None) -> None:
        """Use an embedding computed elsewhere for the image that is set, or that was given to `preprocess` last.

        None has it encoded again. Raises ValueError for a wrong shape, and if there is no image.
        """
        if self.current_image is None and self._last_input is not None:
            self.current_image = self._last_input[1]
        image = self._require_image()
        if features is not None:
            self._ready_model(self.args).prepare(features)  # only to raise ValueError for a wrong shape
        image.features = features

    def save_features(self, path: str | os.PathLike[str]) -> Path:
        """Write the embedding of the image that is set to a safetensors file, and return its path.

        Metadata identifies the model and image that it belongs to; see `embeddings`.
        """
        with self._lock:
            image, model = self._require_image(), self._ready_model(self.args)
            image.prepared(model, self.args.dtype)  # encodes again if a call has used another imgsz
            return embeddings.save(path, image, model)

    def load_features(self, path: str | os.PathLike[str]) -> None:
        """Use a saved embedding instead of encoding.

        It is prepared for the decoder, as in `set_image`. If no image is set, the embedding stands in for it: prompts
        work, results show a black image of its size, and only operations that need pixels (crops, another `imgsz`)
        raise ValueError. Raises ValueError for an embedding of another model, input size or image.
        """
        with self._lock:
            self._invalidate_if_changed()
            self._set_prepared(embeddings.load(path, self._ready_model(self.args), self.current_image))

    def _require_image(self) -> EncodedImage:
        if self.current_image is None:
            raise ValueError("no image is set: call set_image first, or pass a source")
        self._invalidate_if_changed()
        return self.current_image

    def _resolve_image(self, im: Any) -> EncodedImage:
        """Return the image of `im`: anything `set_image` accepts, or a model input made of what `preprocess` returned.

        None means the image that is set.
        """
        if im is None:
            return self._require_image()
        if self._last_input is not None and isinstance(im, Tensor) and im.is_floating_point():
            last_input, image, version = self._last_input
            size = self._ready_model(self.args).image_size
            if last_input() is im or im.shape == (1, 3, size, size):
                self._invalidate_if_changed()
                is_unchanged = last_input() is im and version is not None and version == _version(im)
                if image is self.current_image or (is_unchanged and image.own_encoder is None):
                    return image
                image = copy.copy(image)
                image.features = self.get_im_features(im)
                return image
        return self._load_image(im)

    def _load_image(self, im: Any) -> EncodedImage:
        image = load_single_image(im)
        image.own_encoder = self._own_encoder()
        return image

    def _own_encoder(self) -> Callable[[Any], Tensor] | None:
        """Return the function that encodes images by the methods of a subclass; None if it overrides none of them."""
        is_usual = has_original_methods(self, PredictorState, *_ENCODER_STEPS)
        return None if is_usual else self._encode_by_steps

    def _encode_by_steps(self, bgr: Any) -> Tensor:
        return self.get_im_features(self.preprocess([bgr]))

    def _snapshot_weights(self) -> tuple[WeightSnapshot, WeightSnapshot]:
        model = self._ready_model(self.args)
        return WeightSnapshot(model.image_encoder), WeightSnapshot(model.prompt_encoder, model.mask_decoder)

    def _invalidate_if_changed(self) -> None:
        """Drop cached results that depend on weights changed in place since, for example by `load_state_dict`."""
        if self._weight_snapshots is None:
            self._weight_snapshots = self._snapshot_weights()
        encoder_changed, decoder_changed = (weights.has_changed() for weights in self._weight_snapshots)
        if encoder_changed or decoder_changed:
            for image in (self.current_image, self._last_input and self._last_input[1]):
                if image is not None:
                    image.invalidate(embedding=encoder_changed)
            self._weight_snapshots = self._snapshot_weights()

    def preprocess(self, im: Any) -> Tensor:
        """Convert one image, or a list of one, to the model input (1, 3, S, S) float32: resized, normalised, padded.

        The result, also changed, can be passed to `prompt_inference`, `inference`, `generate` and `get_im_features`;
        masks are then those of the original image.
        """
        image = self._load_image(im)
        assert image.bgr is not None
        (bgr,) = self.pre_transform([image.bgr])
        return self._remember_input(model_input(self._ready_model(self.args), bgr), image)

    def pre_transform(self, im: list[Any]) -> list[Any]:
        """Return the image in a list, BGR uint8 (H, W, 3), as it is. Subclasses may change its pixels.

        What is returned is resized and padded if it doesn't have the size of the model's input.
        """
        return im

    def get_im_features(self, im: Tensor) -> Tensor:
        """Return the embedding (1, C, S / 16, S / 16) of a model input (1, 3, S, S); subclasses may change it."""
        model = self._ready_model(self.args)
        return encode_input(model, im.to(model.device), self.args.dtype)

    def _remember_input(self, pixels: Tensor, image: EncodedImage) -> Tensor:
        if not isinstance(pixels, Tensor):
            raise TypeError(f"preprocess must return the model's input, a tensor, not {type(pixels).__name__}")
        self._last_input = weakref.ref(pixels), image, _version(pixels)
        return pixels


watch_methods(PredictorState, names=_ENCODER_STEPS)


def _version(tensor: Tensor) -> int | None:
    """Return a number that in-place changes of the tensor increase; None in inference mode, where it has none."""
    return None if tensor.is_inference() else tensor._version


def load_single_image(image: Any) -> EncodedImage:
    """Load the single image that `image` denotes, with its own copy of the pixels.

    Raises TypeError for None, and ValueError for several images, none, or one that can't be read.
    """
    if image is None:
        raise TypeError("no image: it is None (cv2.imread returns that for a file that it can't read)")
    with load_sources(image) as source:
        if source.kind in ("video", "stream"):
            raise ValueError(f"one image is needed, but {source.path} is a {source.kind}: pass it as source instead")
        if source.total is not None and source.total != 1:
            raise ValueError(f"exactly one image is needed, not {source.total}: pass them as source instead")
        items = iter(source)
        item, more = next(items, None), next(items, None)
    if item is None or more is not None or item.kind != "image":
        raise ValueError("exactly one image is needed: pass a video, or several images, as source instead")
    if item.image is None:
        raise ValueError(f"{item.path}: {item.error}")
    # The caller owns the array and may modify it later.
    return EncodedImage(item.image.copy() if source.kind == "arrays" else item.image, item.path)
