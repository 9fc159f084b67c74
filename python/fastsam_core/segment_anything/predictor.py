"""`SamPredictor`: many prompts on one image, with NumPy arrays as results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from .._tensors import check_are_tensors
from ..encoded_image import encode
from ..models.module_cache import cached, version_of
from ..models.native import has_original_methods, inherits_methods, watch_methods
from ..models.prepared_image import PreparedImage
from ..models.prompt_encoder import PromptEncoder
from ..postprocess import MaskResizer
from ..prompts import MAX_COORDINATE, MAX_LOGIT
from .modeling import Sam, as_sam
from .modeling.sam import ADDED_METHODS, rows_of_boxes
from .utils.transforms import ResizeLongestSide


class SamPredictor:
    """Segments objects in one image from prompts.

    sam_model: from `sam_model_registry`, or a `SAM` or `SamModel` of this package. S below is its input size.

    `features` (1, C, S / 16, S / 16), `original_size`, `input_size` (both height, width) and `is_image_set` are plain
    attributes. Setting all four restores an embedding that was saved earlier.
    """

    # Defaults for subclasses whose `__init__` or `reset_image` doesn't call that of this class.
    features: Tensor | None = None
    original_size: tuple[int, int] = (0, 0)
    input_size: tuple[int, int] = (0, 0)
    is_image_set = False
    _prepared_cache: tuple[list[Any], int, PreparedImage] | None = None

    def __init__(self, sam_model: Any) -> None:
        self.model: Sam = as_sam(sam_model)
        self.transform = ResizeLongestSide(self._image_size())
        self.reset_image()

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an image, uint8 (H, W, 3), whose channel order is `image_format`, "RGB" or "BGR".

        Raises ValueError for another format or kind of array, TypeError for anything that isn't a NumPy array.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', not {image_format!r}")
        if not isinstance(image, np.ndarray):
            raise TypeError(f"image must be a NumPy array (H, W, 3), not {type(image).__name__}")
        if image.ndim < 2:
            raise ValueError(f"image must be (H, W, 3), not {image.shape}")
        size = image.shape[0], image.shape[1]
        if self._has_own_input():
            scaled = self.transform.apply_image(image if image_format == self.model.image_format else image[..., ::-1])
            pixels = torch.from_numpy(np.ascontiguousarray(scaled)).to(self.device)
            self.set_torch_image(pixels.permute(2, 0, 1).contiguous()[None], size)
        else:
            self.transform.target_length = self.model.image_size  # `set_image_size` may have changed it
            features = encode(self.model, [image if image_format == "BGR" else image[..., ::-1]])
            self._set_features(features, size)

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, ...]) -> None:
        """Encode an RGB image (1, 3, h, w) that `transform` has scaled.

        original_image_size: (H, W) before scaling. Several images of one size can be encoded too, for their `features`.
        Raises ValueError unless the long side is the model's input size.
        """
        side, shape = self._image_size(), tuple(transformed_image.shape)
        if len(shape) != 4 or shape[1] != 3 or max(shape[2:]) != side:
            raise ValueError(f"transformed_image must be (B, 3, h, w) with a long side of {side}, not {shape}")
        images = self.model.preprocess(transformed_image.to(self.device))
        encode_images = self.model.encode_preprocessed if isinstance(self.model, Sam) else self.model.image_encoder
        features = encode_images(images)
        self._set_features(features, original_image_size)
        self.input_size = shape[2], shape[3]

    def _image_size(self) -> int:
        """Return the long side of the model's input."""
        model = self.model
        return model.image_size if isinstance(model, Sam) else model.image_encoder.img_size

    def _has_own_input(self) -> bool:
        """Return whether images pass through methods that were overridden or replaced, or are encoded as BGR."""
        model = self.model
        return not (
            isinstance(model, Sam)
            and model.image_format == "RGB"
            and all(len(values) == 3 for values in model.normalisation)
            and has_original_methods(model, Sam, "preprocess")
            and inherits_methods(type(model), Sam, "encode_image")
            and has_original_methods(self, SamPredictor, "set_torch_image")
            and has_original_methods(self.transform, ResizeLongestSide, "apply_image", "get_preprocess_shape")
        )

    def _has_own_output(self) -> bool:
        """Return whether masks pass through a method or part that was overridden or replaced."""
        return not (self._decodes_as_usual() and has_original_methods(self.model, Sam, "postprocess_masks"))

    def _decodes_as_usual(self) -> bool:
        """Return whether the model's own methods decode prompts, instead of the parts one by one."""
        model = self.model
        return (
            isinstance(model, Sam)
            and isinstance(model.prompt_encoder, PromptEncoder)
            and inherits_methods(type(model), Sam, *ADDED_METHODS)
        )

    def _set_features(self, features: Tensor, original_size: tuple[int, ...]) -> None:
        """Set the embedding of an image, replacing that of the previous one."""
        self.reset_image()
        self.original_size = int(original_size[0]), int(original_size[1])
        self.input_size = self.transform.get_preprocess_shape(*self.original_size, self._image_size())
        self.features = features
        self.is_image_set = True

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict masks of one object. Prompts may be omitted for a model that was fine-tuned to need none.

        Args:
            point_coords: (P, 2) x, y in pixels of the image.
            point_labels: (P,) label of each point: 1 foreground, 0 background. Also accepted are -1, no point, and
                2 and 3, the corners of a box.
            box: (4,) x1, y1, x2, y2 in pixels of the image.
            mask_input: (1, S / 4, S / 4) logits, as returned by an earlier call.
            multimask_output: Return three masks, for an ambiguous prompt, instead of one.
            return_logits: Return masks as float32 logits instead of bool.

        Returns:
            Masks (C, H, W), their predicted IoU (C,), and low-resolution logits (C, S / 4, S / 4).

        Raises:
            ValueError: For prompts of other shapes, coordinates that aren't finite, or labels outside -1 to 3.
            RuntimeError: If no image is set, as in Meta's package.
        """
        self._check_image()
        coords = labels = boxes = mask = None
        if point_coords is not None:
            if point_labels is None:
                raise ValueError("point_labels are needed with point_coords")
            points = _finite_array("point_coords", point_coords)
            points = points if points.size else points.reshape(0, 2)  # tools pass [] once all clicks are undone
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"point_coords must be (P, 2) x, y, not {points.shape}")
            scaled = self.transform.apply_coords(points, self.original_size)
            coords = torch.as_tensor(scaled, dtype=torch.float, device=self.device)[None]
            if not np.isin(point_labels, (-1, 0, 1, 2, 3)).all():
                raise ValueError(
                    "point_labels must be 1 (foreground), 0 (background), -1 (none), or 2 and 3 (corners of a box), "
                    f"not {np.asarray(point_labels).tolist()}"
                )
            labels = _tensor(point_labels, np.int32).to(self.device, torch.int)[None]
        if box is not None:
            corners = _finite_array("box", box)
            if corners.size != 4:
                raise ValueError(f"box is one object's (4,), not {corners.shape}; predict_torch takes several")
            scaled = self.transform.apply_boxes(corners, self.original_size)
            boxes = torch.as_tensor(scaled, dtype=torch.float, device=self.device)
        if mask_input is not None:
            mask = _tensor(mask_input, np.float32).to(self.device, torch.float)
            side = self._image_size() // 4
            if mask.shape[-2:] != (side, side) or mask.numel() != side * side:
                raise ValueError(f"mask_input must be finite logits (1, {side}, {side}), not {tuple(mask.shape)}")
            if not (mask.abs() <= MAX_LOGIT).all():  # also refuses NaN
                raise ValueError(f"mask_input must be finite logits, at most {MAX_LOGIT:g} in magnitude")
            mask = mask.reshape(1, 1, side, side)
        masks, predicted_iou, low_res = self.predict_torch(
            coords, labels, boxes, mask, multimask_output, return_logits=return_logits
        )
        return masks[0].cpu().numpy(), predicted_iou[0].cpu().numpy(), low_res[0].cpu().numpy()

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict masks of B objects. Their prompts must already be scaled by `transform`.

        point_coords: (B, P, 2) with point_labels (B, P). boxes: (B, 4). mask_input: (B, 1, S / 4, S / 4), or
        (1, 1, S / 4, S / 4) for all objects. Returns masks (B, C, H, W) bool, or float32 logits with `return_logits`,
        predicted IoU (B, C), and low-resolution logits (B, C, S / 4, S / 4). C is 3 with `multimask_output`, else 1.
        Without prompts B is 1, for models that were fine-tuned to need none. Raises RuntimeError if no image is set,
        TypeError for prompts that aren't tensors, and ValueError for prompts of other shapes.
        """
        self._check_image()
        check_are_tensors(mask_input=mask_input)
        boxes = rows_of_boxes(boxes)
        if mask_input is not None and len(mask_input) == 1:
            count = max((len(part) for part in (point_coords, boxes) if part is not None), default=1)
            mask_input = mask_input.expand(count, -1, -1, -1)
        low_res, predicted_iou = self._decode(point_coords, point_labels, boxes, mask_input, multimask_output)
        if self._has_own_output() or torch.is_grad_enabled():  # by `predict_torch.__wrapped__`
            logits = self.model.postprocess_masks(low_res, self.input_size, self.original_size)
            return logits if return_logits else logits > self.model.mask_threshold, predicted_iou, low_res
        shape = (*low_res.shape[:2], *self.original_size)
        resizer = MaskResizer(self.input_size, self.original_size, self.model.image_size)
        all_logits = low_res.flatten(0, 1)
        if return_logits:
            masks = low_res.new_empty(shape)
            for index, logits in enumerate(all_logits):
                masks.view(-1, *self.original_size)[index] = resizer.logits(logits)
            return masks, predicted_iou, low_res
        pixels = torch.empty(all_logits.shape[0], *self.original_size, dtype=torch.bool, device="cpu")
        done = 0
        for part in resizer.measure_in_batches(all_logits, self.model.mask_threshold):
            count = len(part.areas)
            pixels[done : done + count] = ops.rle_decode(part.counts, part.offsets, *self.original_size)
            done += count
        return pixels.view(shape).to(low_res.device), predicted_iou, low_res

    def _decode(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return low-resolution logits and predicted IoU, from the parts themselves if some aren't this package's."""
        model: Any = self.model
        if self._decodes_as_usual():
            prepared = self._prepared()
            low_res, predicted_iou = model.decode_prompts(prepared, points, labels, boxes, masks, multimask_output)
            return low_res, predicted_iou
        clicks = None if points is None else (points, labels)
        sparse, dense = model.prompt_encoder(points=clicks, boxes=boxes, masks=masks)
        low_res, predicted_iou = model.mask_decoder(
            image_embeddings=self.features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        return low_res, predicted_iou

    def get_image_embedding(self) -> Tensor:
        """Return the embedding of the current image, (1, C, S / 16, S / 16). Raises RuntimeError if none is set."""
        if not self.is_image_set:
            raise RuntimeError("no image is set: call set_image(...) first to get its embedding")
        assert self.features is not None
        return self.features

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device if isinstance(self.model, Sam) else next(self.model.parameters()).device

    def reset_image(self) -> None:
        """Discard the current image and its embedding."""
        self.is_image_set = False
        self.features = self._prepared_cache = None

    def _check_image(self) -> None:
        if not self.is_image_set:
            raise RuntimeError("no image is set: call set_image(...) before predicting masks")

    def _prepared(self) -> PreparedImage:
        """Return the decoder's precomputed form of `features`, cached until these or the weights change.

        It isn't cached if it depends on methods of the user's.
        """
        features = self.get_image_embedding()
        weights = [cached(part, "as it is", object) for part in (self.model.mask_decoder, self.model.prompt_encoder)]
        sources, version = [features, *weights], version_of(features)
        cached_result = self._prepared_cache
        if (
            cached_result is None
            or cached_result[1] != version
            or not self.model.prompt_encoder.has_standard_positions()
            or any(source is not other for source, other in zip(cached_result[0], sources, strict=True))
        ):
            self._prepared_cache = cached_result = (
                sources,
                version,
                self.model.prepare(features.to(self.device).float()),
            )
        return cached_result[2]


watch_methods(SamPredictor, names=("set_image", "set_torch_image", "predict_torch", "reset_image"))


def _finite_array(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not (np.abs(array) <= MAX_COORDINATE).all():  # also refuses NaN
        raise ValueError(f"{name} must be finite pixel coordinates of at most 1e9 in magnitude, not {array.tolist()}")
    return array


def _tensor(values: Any, dtype: Any) -> Tensor:
    """Return a tensor as it is, and anything else as a copy in a NumPy dtype.

    PyTorch itself refuses arrays with negative strides or another byte order, and warns of read-only ones.
    """
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype))
