"""Pictures that are in memory already: NumPy arrays, Pillow images and torch tensors, as BGR uint8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._log import warn_once
from .._tensors import check_plain

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation -> the name of the Pillow transpose that puts the picture upright (EXIF 2.32, 4.6.4 A).
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# What no value of 16 bits reaches where they hold fewer: 14 bits at most.
_DARK = 1 << 14


def check_array(array: NDArray[Any]) -> None:
    """ValueError / TypeError unless `from_array` takes it: shape and dtype only, no pixel is looked at."""
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
            f"a {dtype} array has an ambiguous scale: pass uint8, for [0, 1] as (image * 255).round().astype('uint8') "
            "(a torch tensor (3, H, W) in [0, 1], RGB, is accepted as it is)"
        )
    if dtype != np.uint8 and dtype != np.bool_ and not (dtype.kind == "u" and dtype.itemsize == 2):
        raise ValueError(f"an image array is uint8, uint16 or bool, not {dtype}; use array.astype('uint8') for 0..255")


def from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """An ndarray picture as BGR uint8 (H, W, 3), C-contiguous.

    array: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, whose alpha is dropped; uint8, uint16 (its high byte is
    kept, with a warning where that is dark), or bool (True is white). A contiguous uint8 (H, W, 3) array is passed
    through, not copied. Floating-point and other integer arrays are refused with a ValueError: their scale is a guess.
    """
    array = np.asarray(array)
    check_array(array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if 0 < int(array.max()) < _DARK:
            warn_once(
                "a 16-bit image uses only the low part of its range, so that its high bytes, which are kept, are dark: "
                "scale it to 0..65535 first, for 12 bits as image << 4"
            )
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def from_pil(image: Image) -> NDArray[np.uint8]:
    """A Pillow image of any mode as BGR uint8 (H, W, 3), upright after its EXIF orientation.

    Alpha is dropped, palettes and CMYK are converted by Pillow, 16-bit samples keep their high byte. ValueError for
    floating-point images (mode F), whose scale is a guess, and for damaged files that Pillow had not yet decoded.
    """
    from PIL import Image as pillow

    try:
        image.load()
    except Exception as error:
        raise ValueError(f"Pillow can't decode the image: {error}") from error
    if image.width < 1 or image.height < 1:
        raise ValueError(f"the image has no pixels: {image.width} x {image.height}")
    method = _UPRIGHT.get(orientation(image))
    if method is not None:
        image = image.transpose(pillow.Transpose[method])
    mode = image.mode
    if mode == "F":
        raise ValueError("a floating-point image (mode F) has an ambiguous scale: convert it to 8 bit first")
    if mode == "I" or mode.startswith("I;16"):
        values = np.asarray(image)
        if mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ValueError("a 32-bit image with values outside 0..65535: convert it to 8 bit first")
        return from_array(values.astype(np.uint16))
    if mode in ("La", "RGBa"):  # premultiplied alpha has no direct way to RGB
        image = image.convert(mode[:-1] + "A")
    import cv2

    return np.asarray(cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def from_tensor(tensor: torch.Tensor) -> list[NDArray[np.uint8]]:
    """A torch tensor as a list of BGR uint8 (H, W, 3) pictures, one per batch entry.

    tensor: (B, C, H, W), (C, H, W) or (H, W) with C = 1, 3 (RGB) or 4 (RGBA, alpha dropped), of any height and width,
    on any device: uint8, bool (True is white), or floating point in [0, 1], which is scaled by 255 and rounded.
    Floating-point values up to 255 are taken as that scale, with a warning. Anything else is a ValueError.
    """
    check_tensor(tensor)
    batch = tensor.detach()
    batch = batch.reshape((1,) * (4 - batch.ndim) + tuple(batch.shape))
    return [_picture(image) for image in batch]


def check_tensor(tensor: torch.Tensor) -> None:
    """ValueError or TypeError unless `from_tensor` takes it: shape, dtype and layout only."""
    check_plain(tensor, "an image tensor")
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


def _picture(image: torch.Tensor) -> NDArray[np.uint8]:  # (C, H, W)
    if image.dtype == torch.bool:
        image = image.to(torch.uint8) * 255
    elif image.dtype != torch.uint8:
        image = image.float()
        low, high = (float(value) for value in torch.aminmax(image))
        if not (low >= -1e-3 and high <= 255):  # also true for NaN
            raise ValueError(f"a floating-point image tensor holds RGB in [0, 1], but its values span [{low}, {high}]")
        if high > 1 + 1e-3:
            warn_once("an image tensor has values above 1: taken as 0 to 255; divide by 255 to be unambiguous")
        else:
            image = image * 255
        image = image.round().clamp(0, 255).to(torch.uint8)
    rgb = image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    return np.ascontiguousarray(rgb.flip(0).permute(1, 2, 0).cpu().numpy())


def orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; from 5 on, width and height change places to put the picture upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # unreadable EXIF is no reason to refuse readable pixels
        return 1
