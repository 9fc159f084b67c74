"""Decode image files to BGR arrays, strictly: a damaged file is an error, never a partly grey image.

Pillow decodes, because it reads the size before the pixels and reports truncated or corrupt data as errors (unless the
application sets `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`). Its pixels equal OpenCV's. Only the formats listed below reach
a decoder; a file's first bytes decide, not its suffix.
"""

from __future__ import annotations

import importlib
import os
import re
import struct
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .._log import warn_once
from .arrays import exif_orientation, from_pil

# 2^28 pixels: 805 MB of BGR; every camera and most scanners stay below it.
DEFAULT_MAX_PIXELS = 2**28

# format -> (Pillow module, class). They are used directly because Image.open would apply Pillow's process-wide, smaller
# pixel limit and try about forty more formats.
_DECODERS = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "WebP": ("WebPImagePlugin", "WebPImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
    "JPEG 2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
)
_NOT_IMAGES = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with `git lfs pull`"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing; render it to PNG first"),
    (b"<?xml", "an XML file"),
    (b"%pdf", "a PDF; render its pages to PNG first"),
)


def max_pixels() -> int:
    """Return the maximum number of pixels of a decoded image: `FASTSAM_MAX_PIXELS`, by default 2^28."""
    text = os.environ.get("FASTSAM_MAX_PIXELS", "").strip()
    if not text:
        return DEFAULT_MAX_PIXELS
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"FASTSAM_MAX_PIXELS={text!r}: it must be a positive integer")
    return int(text)


def sniff(header: bytes) -> str | None:
    """Return the image format that a file's first bytes (at least 16) indicate, or None."""
    for signature, name in _SIGNATURES:
        if header.startswith(signature):
            return name
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "WebP"
    if header[4:8] == b"ftyp":
        if header[8:12] in (b"avif", b"avis"):
            return "AVIF"
        if header[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
            return "HEIF"
    return None


def decode_image(data: bytes | bytearray | memoryview | BinaryIO) -> NDArray[np.uint8]:
    """Decode an image to BGR uint8 (H, W, 3), made upright by its EXIF orientation.

    data: the encoded bytes (JPEG, PNG, BMP, TIFF, WebP, GIF, AVIF or JPEG 2000; HEIF if pillow_heif has registered
    itself with Pillow), or a binary file at its beginning. Of several frames or pages the first is decoded, and that is
    logged once. Alpha is dropped and 16-bit samples keep their high byte.

    Raises ValueError if the data is no such image, is damaged or truncated, or has more than `max_pixels()` pixels. The
    size is checked before any pixel is decoded.
    """
    limit = max_pixels()
    name, image = open_image(BytesIO(bytes(data)) if isinstance(data, (bytes, bytearray, memoryview)) else data)
    check_size(image.width, image.height, limit)
    try:
        image.load()
        pixels = from_pil(image)
    except Exception as error:
        raise ValueError(f"damaged or unsupported {name} file: {_reason(error)}") from error
    # `is_animated` may read beyond the first frame; damage there doesn't affect the decoded image.
    with suppress(Exception):
        if getattr(image, "is_animated", False):
            warn_once(f"a {name} file has several frames or pages; only the first is used")
    return pixels


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of an image file, upright by its EXIF orientation, reading only the header.

    Raises FileNotFoundError if there is no file, ValueError if it isn't an image.
    """
    _check_regular_file(path)
    try:
        with open(path, "rb") as file:
            name, image = open_image(file)
            # Some versions of Pillow already apply the orientation to a TIFF's `size`.
            width, height = (image.tag_v2[256], image.tag_v2[257]) if name == "TIFF" else image.size
            # For a PNG, `exif_orientation` would decode all pixels to look for EXIF data after them.
            is_rotated = (name != "PNG" or _png_may_be_rotated(file, image.info)) and 5 <= exif_orientation(image) <= 8
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from error
    return (width, height) if is_rotated else (height, width)


def _png_may_be_rotated(file: BinaryIO, info: dict[Any, Any]) -> bool:
    """Return whether a PNG has EXIF data, or XMP with an orientation, judged by its chunk headers."""
    if "exif" in info or "Raw profile type exif" in info:
        return True
    if re.search('tiff:Orientation(="|>)[2-8]', str(info.get("XML:com.adobe.xmp", ""))):
        return True
    end = file.seek(0, os.SEEK_END)
    position = 8
    while position + 8 <= end:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            return True
        position += length + 12  # plus the chunk's length and type (8 bytes) and checksum (4)
    return False


def check_size(width: int, height: int, limit: int | None = None) -> None:
    """Raise ValueError for an image of more than `limit` pixels (default: `max_pixels()`)."""
    limit = max_pixels() if limit is None else limit
    if width * height > limit:
        raise ValueError(
            f"the image is {width} x {height} = {width * height:,} pixels, more than the limit of {limit:,}; set "
            "the environment variable FASTSAM_MAX_PIXELS to raise it if you trust the file"
        )


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode an image file, see `decode_image`.

    Raises FileNotFoundError if there is no file, ValueError if it can't be read or decoded.
    """
    _check_regular_file(path)
    try:
        with open(path, "rb") as file:
            return decode_image(file)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from error


def _check_regular_file(path: str | os.PathLike[str]) -> None:
    if not os.path.isfile(path):
        # Reading a named pipe or a device could block or never end.
        if os.path.isdir(path):
            raise ValueError("a folder, not an image; folders in a list are searched without their sub-folders")
        if os.path.exists(path):
            raise ValueError("not a regular file")
        raise FileNotFoundError(f"no such file: {os.fspath(path)}")


def open_image(file: BinaryIO) -> tuple[str, Any]:
    """Open a binary file at its beginning as a Pillow image, reading only the header. Return its format and the image.

    Raises ValueError if the file is empty, of an unsupported format, or has a damaged header.
    """
    header = file.read(64)
    file.seek(0)
    if not header:
        raise ValueError("the file is empty")
    name = sniff(header)
    if name is None:
        start = header.lstrip().lower()
        description = next((text for prefix, text in _NOT_IMAGES if start.startswith(prefix)), "of an unknown format")
        raise ValueError(f"not an image: this is {description} (accepted: {', '.join(_DECODERS)})")
    opener = _image_opener(name)
    try:
        image = opener(file, "")
        image.size  # noqa: B018 - some headers are read only now
    except Exception as error:  # decoders raise exceptions of many types: struct.error, SyntaxError, KeyError...
        raise ValueError(f"damaged {name} header: {_reason(error)}") from error
    return name, image


def _image_opener(name: str) -> Any:
    if name == "HEIF":
        from PIL import Image

        if "HEIF" not in Image.OPEN:
            raise ValueError(
                "HEIF needs the package pillow-heif: install it and call pillow_heif.register_heif_opener(), "
                "or convert the file to JPEG"
            )
        return Image.OPEN["HEIF"][0]
    module, cls = _DECODERS[name]
    try:
        return getattr(importlib.import_module(f"PIL.{module}"), cls)
    except ImportError:
        raise ValueError(f"{name} needs a newer Pillow (11.3 for AVIF): update it, or convert the file") from None


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
