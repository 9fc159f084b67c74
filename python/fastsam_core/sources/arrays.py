"""Convert images in memory to BGR uint8: NumPy arrays, Pillow images and torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._log import warn_once
from .._tensors import check_dense
from ..ops._threads import pytorch_thread_count

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation -> name of the Pillow transpose that makes the image upright (EXIF 2.32, 4.6.4 A).
_TRANSPOSE_BY_ORIENTATION = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# A 16-bit image whose maximum is below this probably holds samples of at most 14 bits.
_MAX_14_BIT = 1 << 14


def check_array(array: NDArray[Any]) -> None:
    """Raise ValueError unless `from_array` accepts the array's shape and dtype. Pixels are not read."""
    shape, dtype = array.shape, array.dtype
    if array.ndim == 4:
        raise ValueError(f"an array of shape {shape} is a batch: pass a list of (H, W, 3) arrays instead")
    if array.ndim not in (2, 3):
        raise ValueError(f"an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), not {shape}")
    if array.ndim == 3 and shape[2] not in (1, 3, 4):
        hint = "; this looks channels-first: use array.transpose(1, 2, 0)" if shape[0] in (1, 3, 4) else ""
        raise ValueError(f"an image array has 1, 3 or 4 channels in its last axis, not shape {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"the image array has no pixels: shape {shape}")
    if dtype.kind == "f":
        raise ValueError(
            f"the scale of a {dtype} array is ambiguous: pass uint8, for [0, 1] (image * 255).round().astype('uint8') "
            "(a torch tensor (3, H, W) in [0, 1], RGB, is accepted as it is)"
        )
    if dtype != np.uint8 and dtype != np.bool_ and not (dtype.kind == "u" and dtype.itemsize == 2):
        raise ValueError(f"an image array is uint8, uint16 or bool, not {dtype}; use array.astype('uint8') for 0..255")


def from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert an image array to BGR uint8 (H, W, 3), C-contiguous.

    array: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, whose alpha is dropped. The dtype is uint8, uint16 (the
    high byte is kept, with a warning if the result is dark) or bool (True becomes white). A contiguous uint8 (H, W, 3)
    array is returned without a copy. Raises ValueError for floating-point and other integer arrays, whose scale is
    ambiguous.
    """
    array = np.asarray(array)
    check_array(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if 0 < int(array.max()) < _MAX_14_BIT:
            warn_once(
                "a 16-bit image uses only a part of its range, so its high bytes, which are kept, are dark: scale it "
                "to 0..65535 first, for example image << 4 for 12 bits"
            )
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def is_pil(value: Any) -> bool:
    """Return whether a value is a Pillow image."""
    # By name, to avoid importing Pillow: its images can't exist before their module is imported.
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__)


def from_pil(image: Image) -> NDArray[np.uint8]:
    """Convert a Pillow image to BGR uint8 (H, W, 3), made upright by its EXIF orientation.

    Alpha is dropped, palettes and CMYK are converted by Pillow, and 16-bit samples keep their high byte. Raises
    ValueError for floating-point images (mode F), whose scale is ambiguous, for 32-bit integers outside 0 to 65535, and
    for damaged files that Pillow had not decoded yet.
    """
    from PIL import Image as pillow

    try:
        image.load()
    except Exception as error:
        raise ValueError(f"Pillow can't decode the image: {error}") from error
    if image.width < 1 or image.height < 1:
        raise ValueError(f"the image has no pixels: {image.width} x {image.height}")
    method = _TRANSPOSE_BY_ORIENTATION.get(exif_orientation(image))
    if method is not None:
        image = image.transpose(pillow.Transpose[method])
    mode = image.mode
    if mode == "F":
        raise ValueError("the scale of a floating-point image (mode F) is ambiguous: convert it to 8 bit first")
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(image)
        if mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ValueError("a 32-bit image with values outside 0..65535: convert it to 8 bit first")
        return from_array(values.astype(np.uint16))
    if mode in ("La", "RGBa"):  # Pillow can't convert premultiplied alpha directly to RGB
        image = image.convert(mode[:-1] + "A")
    import cv2

    return np.asarray(cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def from_tensor(tensor: torch.Tensor) -> list[NDArray[np.uint8]]:
    """Convert a torch tensor to a list of BGR uint8 (H, W, 3) images, one per batch entry.

    tensor: (B, C, H, W), (C, H, W) or (H, W) with C = 1, 3 (RGB) or 4 (RGBA, alpha dropped), of any height and width,
    on any device. The dtype is uint8, bool (True becomes white), or floating point in [0, 1], which is scaled by 255
    and rounded. An image with floating-point values from 1 to 255 is taken as already scaled, with a warning. Raises
    ValueError for anything else.
    """
    check_tensor(tensor)
    pytorch_thread_count()  # in a new thread this may be the first use of PyTorch
    batch = tensor.detach()
    batch = batch.reshape((1,) * (4 - batch.ndim) + tuple(batch.shape))
    return [_chw_to_bgr(image) for image in batch]


def check_tensor(tensor: torch.Tensor) -> None:
    """Raise ValueError or TypeError unless `from_tensor` accepts the tensor's shape, dtype and layout."""
    check_dense(tensor, "an image tensor")
    shape, dtype = tuple(tensor.shape), tensor.dtype
    if tensor.ndim not in (2, 3, 4):
        raise ValueError(f"an image tensor is (B, 3, H, W), (3, H, W) or (H, W), RGB, not {shape}")
    if tensor.ndim > 2 and shape[-3] not in (1, 3, 4):
        hint = "; this looks channels-last: use tensor.movedim(-1, -3)" if shape[-1] in (1, 3, 4) else ""
        raise ValueError(f"an image tensor has 1, 3 or 4 channels before height and width, not shape {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"the image tensor has no pixels: shape {shape}")
    if not dtype.is_floating_point and dtype not in (torch.uint8, torch.bool):
        raise ValueError(f"an image tensor is floating point in [0, 1], uint8 or bool, not {dtype}")


def _chw_to_bgr(image: torch.Tensor) -> NDArray[np.uint8]:  # (C, H, W)
    if image.dtype != torch.uint8:
        image = image.float()
        minimum, maximum = (float(value) for value in torch.aminmax(image))
        if not (minimum >= -1e-3 and maximum <= 255):  # also true for NaN
            raise ValueError(
                f"a floating-point image tensor holds RGB in [0, 1], but its values span [{minimum}, {maximum}]"
            )
        if maximum > 1 + 1e-3:
            warn_once("an image tensor has values above 1: assumed to be 0 to 255; divide by 255 to be unambiguous")
        else:
            image = image * 255
        image = image.round().clamp(0, 255).to(torch.uint8)
    rgb = image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return np.ascontiguousarray(rgb.flip(0).permute(1, 2, 0).cpu().numpy())


def exif_orientation(image: Image) -> int:
    """Return the EXIF orientation, 1 to 8. From 5 on, making the image upright swaps width and height."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # unreadable EXIF data should not make readable pixels an error
        return 1
