"""`Results.plot`: tints, outlines, boxes, labels, colours, and degenerate input."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import scene
from fastsam_core import plotting
from fastsam_core.plotting import colors, drawing, text
from fastsam_core.results import Masks, Results
from fastsam_core.rle import from_masks

SIDE = 200


def squares(*corners: tuple[int, int, int], ground: int = 100, **kwargs: Any) -> Results:
    """Return results with squares (x, y, side) on a grey 200 x 200 image, each of its own class."""
    masks = np.zeros((len(corners), SIDE, SIDE), bool)
    for mask, (x, y, side) in zip(masks, corners, strict=True):
        mask[y : y + side, x : x + side] = True
    rows = [[x, y, x + side - 1, y + side - 1, 0.9, i] for i, (x, y, side) in enumerate(corners)]
    image = np.full((SIDE, SIDE, 3), ground, np.uint8)
    names = kwargs.pop("names", {i: str(i) for i in range(len(corners))})
    return Results(image, "a.jpg", names, torch.tensor(rows, dtype=torch.float32), from_masks_of(masks), **kwargs)


def from_masks_of(masks: np.ndarray) -> Masks:
    return Masks(from_masks(masks), masks.shape[1:])


def tinted(color: tuple[int, int, int], ground: int = 100) -> np.ndarray:
    return np.round((1 - drawing.FILL_OPACITY) * ground + drawing.FILL_OPACITY * np.array(color))


def test_masks_are_tinted_and_other_pixels_unchanged() -> None:
    result = squares((50, 60, 80))
    before = result.orig_img.copy()
    drawn = result.plot(boxes=False)
    assert drawn.dtype == np.uint8 and drawn.shape == before.shape and drawn.flags.c_contiguous
    np.testing.assert_array_equal(result.orig_img, before)
    assert np.abs(drawn[100, 90] - tinted(colors.PALETTE[0])).max() <= 1
    far = np.ones((SIDE, SIDE), bool)
    far[57:143, 47:133] = False
    np.testing.assert_array_equal(drawn[far], before[far])
    assert np.abs(drawn[100, 50].astype(int) - colors.LIGHT[0]).max() <= 1  # the outline is opaque


def test_smaller_masks_are_drawn_on_top_in_any_order() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        corners = [(20, 20, 150), (60, 60, 60), (80, 80, 20)]
        drawn = squares(*(corners[i] for i in order)).plot(boxes=False, color_mode="class")
        for pixel, square in (((40, 40), 0), ((68, 68), 1), ((90, 90), 2)):
            assert np.abs(drawn[pixel] - tinted(colors.PALETTE[order.index(square)])).max() <= 1


def test_rle_and_dense_masks_and_arrays_draw_the_same() -> None:
    drawn = scene.results().plot()
    np.testing.assert_array_equal(scene.results(rle=False).plot(), drawn)
    np.testing.assert_array_equal(scene.results(rle=False).numpy().plot(), drawn)


def test_plot_decodes_masks_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastsam_core.rle.to_masks", lambda rles: pytest.fail("all masks were expanded"))
    scene.results().plot()


def test_pil_img_and_part_options() -> None:
    result = squares((50, 60, 80))
    drawn = result.plot()
    image = result.plot(pil=True)
    assert isinstance(image, Image.Image) and image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image)[..., ::-1], drawn)
    np.testing.assert_array_equal(result.plot(masks=False, boxes=False), result.orig_img)
    ground = np.zeros_like(result.orig_img)
    other = result.plot(img=ground, boxes=False)
    assert not ground.any() and not other[5, 5].any() and other[100, 90].any()
    assert (drawn != result.plot(labels=False)).any()
    assert (drawn != result.plot(conf=False)).any()


@pytest.mark.parametrize(
    "change",
    [
        {"color_mode": "rainbow"},
        {"img": np.zeros((3, 3, 3), np.uint8)},
        {"img": np.zeros((SIDE, SIDE, 3))},
        {"img": np.zeros((SIDE, SIDE), np.uint8)},
        {"line_width": float("nan")},
        {"line_width": "2"},
        {"font_size": -1},
        {"font_size": [12]},
        {"font": None},
        {"txt_color": "red"},
        {"txt_color": (255, 255)},
        {"txt_color": (0.5, 0.5, 0.5)},
        {"txt_color": (0, 0, 256)},
    ],
)
def test_bad_arguments_name_the_argument(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(change))} must be"):
        squares((5, 5, 5)).plot(**change)


def test_huge_line_width_and_font_size_and_array_text_color() -> None:
    result = squares((5, 5, 5))
    assert result.plot(line_width=1e9, font_size=1e9).shape == (SIDE, SIDE, 3)
    assert (result.plot(txt_color=np.array([0, 0, 255])) == result.plot(txt_color=(0, 0, 255))).all()


def test_boxes_and_labels_are_omitted_beyond_crowd_size() -> None:
    few = [(10 + 18 * i, 50, 12) for i in range(5)]
    assert (squares(*few).plot() != squares(*few).plot(boxes=False)).any()
    many = [(2 + 19 * (i % 10), 2 + 19 * (i // 10), 12) for i in range(drawing.CROWD_SIZE + 1)]
    crowd = squares(*many)
    np.testing.assert_array_equal(crowd.plot(), crowd.plot(boxes=False))
    assert (crowd.plot(masks=False) != crowd.orig_img).any()


def test_color_mode_class_shares_a_color_and_instance_does_not() -> None:
    result = squares((20, 20, 60), (100, 100, 60))
    assert result.boxes is not None
    result.boxes.data[:, 5] = 7  # type: ignore[index]
    drawn = result.plot(boxes=False)
    assert np.array_equal(drawn[50, 50], drawn[130, 130])
    drawn = result.plot(boxes=False, color_mode="instance")
    assert not np.array_equal(drawn[50, 50], drawn[130, 130])


def test_line_width_and_text_color() -> None:
    result = squares((50, 60, 80))
    thin, thick = (result.plot(boxes=False, line_width=width) for width in (1, 9))
    assert (thick != thin).any(axis=2).sum() > 1000
    white = (squares((50, 60, 80)).plot(font_size=24, txt_color=(255, 255, 255)) == 255).all(axis=2).sum()
    black = (squares((50, 60, 80)).plot(font_size=24, txt_color=(0, 0, 0)) == 0).all(axis=2).sum()
    assert white > 30 and black > 30


def test_names_in_other_scripts_are_drawn() -> None:
    for name in ("Käse", "собака", "犬", "", "a\nb"):
        drawn = squares((50, 60, 80), names={0: name}).plot()
        assert (drawn != squares((50, 60, 80)).plot(labels=False)).any()


@pytest.mark.parametrize(
    "box",
    [
        [-1e9, -1e9, 1e9, 1e9],
        [float("inf"), 0, 5, 5],
        [float("nan")] * 4,
        [150, 150, 50, 50],
        [300, 300, 400, 400],
        [0, 0, 199, 199],
    ],
)
def test_degenerate_boxes_are_plotted_without_error(box: list[float]) -> None:
    result = Results(np.zeros((SIDE, SIDE, 3), np.uint8), "a", {}, torch.tensor([[*box, 0.5, 0]]))
    assert result.plot().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_images_are_plotted(shape: tuple[int, int]) -> None:
    rows = torch.tensor([[0.0, 0, shape[1], shape[0], 0.9, 0]])
    result = Results(np.zeros((*shape, 3), np.uint8), "a", {}, rows, torch.ones(1, *shape))
    assert result.plot().any() and result.plot().shape == (*shape, 3)


def test_single_pixels_are_drawn_and_holes_are_not() -> None:
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 5, 5] = True
    masks[1, 10:30, 10:30] = True
    masks[1, 15:25, 15:25] = False
    result = Results(np.zeros((40, 40, 3), np.uint8), "a", {}, masks=from_masks_of(masks))
    drawn = result.plot(line_width=1)
    assert drawn[5, 5].any()
    assert not drawn[20, 20].any()  # the hole stays clear


def test_200_touching_masks_differ_in_color_from_neighbours() -> None:
    label_map = (np.arange(160)[:, None] // 10 * 16 + np.arange(160)[None] // 10).astype(np.int32)
    count = 256
    pairs = colors.adjacent_pairs(label_map)
    assert (0, 1) in pairs and (0, 16) in pairs and (0, 40) not in pairs
    chosen = colors.assign_colors(list(range(count)), range(count), pairs)
    for first, second in pairs:
        assert colors.DISTANCES[chosen[first], chosen[second]] >= 0.1
    masks = label_map == np.arange(200)[:, None, None]
    drawn = Results(np.full((160, 160, 3), 90, np.uint8), "a", {}, masks=from_masks_of(masks)).plot(line_width=1)
    for i in range(199):
        if i % 16 != 15:
            y, x = i // 16 * 10 + 5, i % 16 * 10 + 5
            assert np.abs(drawn[y, x].astype(int) - drawn[y, x + 10]).max() > 10


@settings(deadline=None, max_examples=50)
@given(st.sets(st.tuples(st.integers(0, 29), st.integers(0, 29)).filter(lambda pair: pair[0] < pair[1]), max_size=60))
def test_neighbours_never_share_a_color(pairs: set[tuple[int, int]]) -> None:
    chosen = colors.assign_colors(list(range(30)), range(29, -1, -1), pairs)
    beside = {i: [pair for pair in pairs if i in pair] for i in range(30)}
    if max(map(len, beside.values())) < len(colors.PALETTE):
        assert all(chosen[first] != chosen[second] for first, second in pairs)
    alone = [i for i in range(30) if not beside[i]]
    assert [chosen[i] for i in alone] == [i % len(colors.PALETTE) for i in alone]


def test_palette_colors_are_distinct_and_text_on_dark_has_contrast() -> None:
    assert len(set(colors.PALETTE)) == len(colors.PALETTE) == len(colors.LIGHT) == len(colors.DARK)
    first = colors.DISTANCES[:5, :5] + np.eye(5)
    assert first.min() > colors.MIN_DISTANCE
    # Published reference value: sRGB red in OKLab.
    np.testing.assert_allclose(colors.oklab(np.array([[255, 0, 0]])), [[0.62796, 0.22486, 0.12585]], atol=1e-4)
    for blue, green, red in colors.DARK:
        linear = [((v / 255 + 0.055) / 1.055) ** 2.4 if v > 10 else v / 255 / 12.92 for v in (red, green, blue)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 7


def test_labels_avoid_each_other_and_the_border() -> None:
    taken: list[text.Box] = []
    assert text.place_label((10, 40), (50, 50, 100, 100), (200, 200), taken) == (50, 40, 90, 50)  # on top
    assert text.place_label((10, 40), (50, 5, 100, 100), (200, 200), taken) == (50, 5, 90, 15)  # inside
    assert text.place_label((10, 40), (50, 5, 60, 20), (200, 200), taken) == (50, 21, 90, 31)  # below
    assert text.place_label((10, 40), (190, 50, 199, 60), (200, 200), taken) == (160, 40, 200, 50)  # shifted inwards
    assert text.place_label((10, 40), (50, 50, 60, 60), (200, 200), [(0, 0, 200, 200)]) is None
    assert text.place_label((10, 300), (50, 50, 60, 60), (200, 200), taken) is None


def test_labels_do_not_cover_small_objects() -> None:
    small, large = (60, 44, 10), (60, 60, 120)
    drawn = squares(large, small).plot(masks=False, line_width=1)
    inside = drawn[46:52, 62:68]
    np.testing.assert_array_equal(inside, np.full_like(inside, 100))


def test_conversions_to_pil_bgr_and_png() -> None:
    image = scene.image()
    np.testing.assert_array_equal(plotting.to_bgr(plotting.to_pil(image)), image)
    assert plotting.to_bgr(image) is image
    shrunk = cv2.imdecode(np.frombuffer(plotting.encode_png(image, 32), np.uint8), cv2.IMREAD_COLOR)
    assert shrunk.shape == (24, 32, 3)
