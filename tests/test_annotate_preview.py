"""Tests `Preview`: which images it chooses, their thumbnails, and how the contact sheet is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fastsam_core import auto_annotate
from fastsam_core.annotate import preview
from fastsam_core.annotate.preview import Preview
from fastsam_core.annotate.shards import stable_hash

KEYS = [f"images/{number:04}.jpg" for number in range(200)]
BACKGROUND = 32


class Drawing:
    """Stand-in for `Results` that is drawn as the given image and lists the options of `plot` in `options`."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.options: list[dict[str, Any]] = []

    def plot(self, **options: Any) -> np.ndarray:
        self.options.append(options)
        return self.image


def plain(height: int, width: int, colour: tuple[int, int, int] = (250, 130, 10)) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def thumbnail(image: np.ndarray, key: str = "a.jpg") -> np.ndarray:
    _, content = Preview([key], 1).thumbnail(key, Drawing(image))  # type: ignore[arg-type]
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def rectangle(differs: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last row and column in which `differs` (H, W) is True."""
    rows, columns = np.nonzero(differs)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_images_with_smallest_hashes_are_chosen() -> None:
    chosen = Preview(KEYS, 24)
    assert list(chosen.keys) == sorted(KEYS, key=stable_hash)[:24]
    assert [key in chosen for key in KEYS] == [key in chosen.keys for key in KEYS]
    assert list(Preview(KEYS[::-1], 24).keys) == list(chosen.keys)
    assert list(Preview(KEYS, 0).keys) == []
    assert len(Preview(KEYS[:3], 24).keys) == 3


def test_thumbnail_file_is_named_by_sixteen_digits_of_the_hash() -> None:
    key = next(key for key in (f"{number}.jpg" for number in range(10_000)) if stable_hash(key) < 16**15)
    path, content = Preview([key], 1).thumbnail(key, Drawing(plain(8, 8)))  # type: ignore[arg-type]
    assert path == f".preview/0{stable_hash(key):x}.png" and len(path) == len(".preview/.png") + 16
    assert content.startswith(b"\x89PNG")


def test_masks_are_drawn_without_labels() -> None:
    drawing = Drawing(plain(8, 8))
    Preview(["a.jpg"], 1).thumbnail("a.jpg", drawing)  # type: ignore[arg-type]
    assert drawing.options == [{"labels": False}]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 200, (64, 191, 0, 255)),
        (600, 300, (0, 255, 64, 191)),
        (64, 64, (0, 255, 0, 255)),
        (1, 2000, (127, 127, 0, 255)),
        (2000, 1, (0, 255, 127, 127)),
    ],
)
def test_image_is_scaled_to_the_tile_and_centred(height: int, width: int, expected: tuple[int, ...]) -> None:
    tile = thumbnail(plain(height, width))
    assert tile.shape == (256 + 22, 256, 3)
    assert rectangle((tile[:256] != BACKGROUND).any(2)) == expected
    top, bottom, left, right = expected
    assert (tile[top : bottom + 1, left : right + 1] == (250, 130, 10)).all()


def test_shrunk_image_is_averaged() -> None:
    """Single bright columns keep their share of the brightness, whichever pixels a thumbnail would hit."""
    stripes = plain(1024, 1024, (0, 0, 0))
    stripes[:, ::4] = 200
    assert (thumbnail(stripes)[:256] == 50).all()


def test_enlarged_image_is_interpolated() -> None:
    edge = plain(8, 8, (0, 0, 0))
    edge[:, 4:] = 240
    row = thumbnail(edge)[128, :, 0].astype(int)
    between = row[(row > 0) & (row < 240)]
    assert len(between) >= 24 and (np.diff(between) >= 0).all(), "a pixel is 32 pixels wide in the thumbnail"


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("a/b.c.jpg", "a/b.c"),
        ("x" * 34 + ".jpg", "x" * 34),
        ("begin" + "x" * 28 + "ed.jpg", "..." + "n" + "x" * 28 + "ed"),
        ("line\nbreak\udce9.jpg", "linebreak"),
        ("\n.jpg", "?"),
    ],
)
def test_caption_is_the_end_of_the_printable_name(monkeypatch: pytest.MonkeyPatch, key: str, caption: str) -> None:
    drawn: list[str] = []
    plain_label = preview.text.render_label

    def render(text: str, *arguments: Any) -> np.ndarray:
        drawn.append(text)
        return plain_label(text, *arguments)

    monkeypatch.setattr(preview.text, "render_label", render)
    tile = thumbnail(plain(8, 8), key)
    assert drawn == [caption] and (tile[256:] != BACKGROUND).any()


@pytest.mark.parametrize(("height", "width"), [(60, 30), (10, 700), (60, 700)])
def test_large_caption_is_cut_to_its_space(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    monkeypatch.setattr(preview.text, "render_label", lambda *arguments: plain(height, width, (1, 2, 3)))
    tile = thumbnail(plain(8, 8))
    assert tile.shape == (278, 256, 3)
    assert rectangle((tile == (1, 2, 3)).all(2)) == (256, 255 + min(height, 22), 0, min(width, 256) - 1)


def store(folder: Path, key: str, content: bytes) -> None:
    path = folder / Preview([key], 1).thumbnail_path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (6, 3, 2), (7, 4, 2), (24, 6, 4)]
)
def test_sheet_fills_rows_from_the_left(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    made = Preview(KEYS, count)
    shades = [60 + 8 * place for place in range(count)]
    for key, shade in zip(made.keys, shades, strict=True):
        store(tmp_path, key, cv2.imencode(".png", plain(40, 24, (shade, shade, shade)))[1].tobytes())
    content = made.contact_sheet(tmp_path)
    assert content is not None and content.startswith(b"\xff\xd8"), "the sheet is a JPEG"
    sheet = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (rows * 46 + 6, columns * 30 + 6)
    expected = np.full(sheet.shape, BACKGROUND, np.float64)
    for place, shade in enumerate(shades):
        top, left = place // columns * 46 + 6, place % columns * 30 + 6
        expected[top : top + 40, left : left + 24] = shade
    # JPEG rings at edges, but less than a misplaced tile differs on average.
    assert np.abs(sheet - expected).mean() < 2


def test_sheet_leaves_out_thumbnails_that_are_missing_or_damaged(tmp_path: Path) -> None:
    made = Preview(KEYS, 4)
    assert made.contact_sheet(tmp_path) is None
    missing, empty, damaged, whole = made.keys
    store(tmp_path, empty, b"")
    store(tmp_path, damaged, b"no image")
    assert made.contact_sheet(tmp_path) is None
    assert [made.has_thumbnail(tmp_path, key) for key in (missing, empty)] == [False, True]
    store(tmp_path, whole, cv2.imencode(".png", plain(40, 24))[1].tobytes())
    content = made.contact_sheet(tmp_path)
    assert content is not None
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (46 + 6, 2 * 30 + 6, 3)


@pytest.mark.parametrize("given", [-1, 10_001])
def test_number_of_images_is_bounded(tmp_path: Path, given: int) -> None:
    with pytest.raises(ValueError, match=f"preview must be at .* {given}"):
        auto_annotate(tmp_path, preview=given)
