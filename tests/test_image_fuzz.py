"""Fuzz test of `decode_image`: each of 10,000 damaged or random files gives an image or a ValueError."""

from __future__ import annotations

import random
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fastsam_core.sources import decode_image

TOTAL = 10_000
SEEDS = (
    ("JPEG", {"quality": 70}),
    ("JPEG", {"quality": 90, "progressive": True}),
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"quality": 60}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("JPEG2000", {}),
)


def seeds() -> list[bytes]:
    """Return small image files of various sizes and modes in every supported format."""
    noise = np.random.RandomState(7)
    files = []
    for kind, options in SEEDS:
        for mode in ("RGB", "L", "P"):
            if mode == "P" and kind not in ("PNG", "GIF", "BMP", "TIFF"):
                continue
            height, width = noise.randint(16, 33, 2)
            image = Image.fromarray(noise.randint(0, 256, (height, width, 3), np.uint8)).convert(mode)
            exif = Image.Exif()
            exif[0x0112] = 6
            file = BytesIO()
            image.save(file, kind, **options, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
            files.append(file.getvalue())
    return files


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy: bytes changed, removed, repeated or cut off, half of the changes near the header."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        end = len(result) if rng.random() < 0.5 else min(64, len(result))
        at = rng.randrange(end)
        action = rng.random()
        if action < 0.6:
            result[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif action < 0.75:
            result[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x40\0"))
        elif action < 0.85:
            del result[at : at + rng.randrange(1, 9)]
        elif action < 0.95:
            result[at:at] = result[at : at + rng.randrange(1, 33)]
        elif len(result) > 1:
            del result[rng.randrange(1, len(result)) :]
        if not result:
            break
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        result = with_right_checksums(result)
    return bytes(result)


def with_right_checksums(data: bytearray) -> bytearray:
    """Return the PNG file with correct chunk checksums, so that decoding gets past them."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return data


@pytest.mark.filterwarnings("ignore")  # Pillow warns of oddities before it refuses a file
def test_damaged_files_give_an_image_or_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # A damaged header may promise any size up to the limit, and so much memory is then filled: keep it small.
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", str(2**20))
    files, rng = seeds(), random.Random(20240)
    decoded = refused = 0
    for number in range(TOTAL):
        if number % 20:
            data = mutate(files[number % len(files)], rng)
        else:
            start = rng.choice((b"", files[rng.randrange(len(files))][: rng.choice((4, 12, 40))]))
            data = start + rng.randbytes(rng.randrange(400))
        try:
            image = decode_image(data)
        except ValueError as error:
            assert str(error)
            refused += 1
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            assert 0 < image.size <= 3 * 2**20
            decoded += 1
    assert decoded + refused == TOTAL
    # Both outcomes must have occurred often.
    assert decoded > 1500 and refused > 3000


def test_undamaged_seed_files_are_decoded() -> None:
    for data in seeds():
        assert decode_image(data).size > 0
