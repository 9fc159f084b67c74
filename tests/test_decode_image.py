"""Tests of `decode_image`: formats, colour modes and bit depths, EXIF orientation, size limits and damaged files."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from fastsam_core._log import warn_once
from fastsam_core.sources import decode_image, load_sources
from image_examples import BGR, RGB, encode, only


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000"])
def test_truncated_files_are_reported_as_damaged(kind: str) -> None:
    data = encode(RGB, kind)
    for length in (20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="damaged"):
            decode_image(data[:length])


def test_avif_is_decoded_and_truncation_is_damage() -> None:
    pytest.importorskip("PIL.AvifImagePlugin", reason="this Pillow has no AVIF")
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encode(RGB, "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(decode_image(data).astype(int) - BGR).max() <= 4
    with pytest.raises(ValueError, match="damaged AVIF header"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("brand", ["heic", "mif1"])
def test_heif_uses_the_registered_pillow_plugin(brand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x18ftyp" + brand.encode() + bytes(52)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ValueError, match=r"^HEIF needs the package pillow-heif"):
        decode_image(data)
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda file, name: Image.fromarray(RGB), None))
    assert np.array_equal(decode_image(data), BGR)


def test_format_missing_from_pillow_is_not_reported_as_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(ValueError, match=r"^AVIF needs a newer Pillow"):
        decode_image(b"\0\0\0\x1cftypavif" + bytes(52))


def test_unsupported_formats_are_not_decoded() -> None:
    for kind in ("PPM", "PCX", "TGA", "ICO", "SGI"):
        with pytest.raises(ValueError, match="not an image"):
            decode_image(encode(RGB, kind))
    with pytest.raises(ValueError, match="not an image"):
        decode_image(b"\0\0\0\x18ftypisom" + bytes(52))  # an MP4 video


def test_jpeg_pixels_equal_opencv() -> None:
    smooth = cv2.GaussianBlur(np.repeat(np.repeat(RGB, 5, 0), 5, 1), (9, 9), 3)
    data = encode(smooth, "JPEG", quality=80)
    assert np.array_equal(decode_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_colour_modes_are_converted_to_bgr() -> None:
    grey = RGB[:, :, 0]
    alpha = np.dstack([RGB, grey])
    as_bgr = np.repeat(grey[:, :, None], 3, 2)
    deep = (grey.astype(np.uint16) << 8) + 77
    palette = Image.fromarray(RGB).quantize(32)
    cases: list[tuple[Any, str, np.ndarray]] = [
        (grey, "PNG", as_bgr),
        (alpha, "PNG", BGR),
        (Image.fromarray(np.dstack([grey, grey]), "LA"), "PNG", as_bgr),
        (deep, "PNG", as_bgr),
        (deep, "TIFF", as_bgr),
        (Image.fromarray(deep.astype(np.int32)), "TIFF", as_bgr),
        (Image.fromarray(grey > 127), "PNG", np.where(as_bgr > 127, 255, 0)),
        (palette, "PNG", np.asarray(palette.convert("RGB"))[:, :, ::-1]),
        (Image.fromarray(RGB).convert("CMYK"), "TIFF", BGR),
    ]
    for image, kind, expected in cases:
        pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
        for result in (decode_image(encode(image, kind)), only(pil).image):
            assert np.array_equal(result, expected), (pil.mode, kind)


@pytest.mark.parametrize(("mode", "premultiplied"), [("LA", "La"), ("RGBA", "RGBa")])
def test_premultiplied_alpha_is_divided_out(mode: str, premultiplied: str) -> None:
    image = Image.new(mode, (2, 1), (200,) * (len(mode) - 1) + (128,))
    assert np.abs(only(image.convert(premultiplied)).image.astype(int) - 200).max() <= 1
    assert only(image.convert(premultiplied)).image.shape == (1, 2, 3)


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    deep = (BGR.astype(np.uint16) << 8) + 200
    assert np.array_equal(decode_image(cv2.imencode(".png", deep)[1].tobytes()), BGR)
    assert np.array_equal(only(deep).image, BGR)
    assert np.array_equal(only(deep.astype(">u2")).image, BGR)


@pytest.mark.parametrize(("largest", "warned"), [(0, False), (255, True), (4095, True), (16384, False)])
def test_dark_sixteen_bit_images_are_warned_about(largest: int, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    deep = np.zeros((4, 5), np.uint16)
    deep[1, 2] = largest
    for image in (deep, Image.fromarray(deep)):
        warn_once.cache_clear()
        caplog.clear()
        assert only(image).image.max() == largest >> 8
        assert any("image << 4" in record.getMessage() for record in caplog.records) == warned


@pytest.mark.parametrize(
    "image",
    [Image.new("F", (4, 4), 0.5), *(Image.fromarray(np.full((4, 4), value, np.int32)) for value in (-1, 65_536))],
    ids=["F", "negative I", "large I"],
)
def test_pil_modes_of_unknown_scale_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="convert it to 8 bit"):
        list(load_sources(image))
    with pytest.raises(ValueError, match="convert it to 8 bit"):
        decode_image(encode(image, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # JPEG keeps the values of 8 x 8 blocks, so the layout of the blocks shows the orientation.
    blocks = np.kron(np.array([[10, 90], [170, 250], [60, 210]], np.uint8), np.ones((8, 8), np.uint8))
    stored = {
        1: blocks,
        2: blocks[:, ::-1],
        3: blocks[::-1, ::-1],
        4: blocks[::-1],
        5: blocks.T,
        6: np.rot90(blocks, 1),
        7: blocks[::-1, ::-1].T,
        8: np.rot90(blocks, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.repeat(np.ascontiguousarray(stored)[:, :, None], 3, 2))
    data = encode(image, kind, exif=exif)
    for result in (decode_image(data), only(Image.open(BytesIO(data))).image):
        assert result.shape == (24, 16, 3)
        assert np.abs(result[4::8, 4::8, 0].astype(int) - blocks[4::8, 4::8]).max() <= 8


def test_damaged_exif_is_ignored() -> None:
    data = encode(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode_image(data), BGR)


def test_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # A header that promises 50,000 x 50,000 pixels, without any data.
    bomb = bytearray(encode(RGB, "BMP")[:54])
    bomb[18:26] = (50_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match=r"50000 x 50000 = 2,500,000,000 pixels.*FASTSAM_MAX_PIXELS"):
        decode_image(bytes(bomb))
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "599")
    with pytest.raises(ValueError, match="the limit of 599"):
        decode_image(encode(RGB, "JPEG"))
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "600")
    assert decode_image(encode(RGB, "JPEG")).shape == (20, 30, 3)
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="FASTSAM_MAX_PIXELS='many'"):
        decode_image(encode(RGB, "JPEG"))
