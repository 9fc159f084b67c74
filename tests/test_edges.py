"""Tests of edge maps and their thinning, with masks of known shape and with a whole model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor
from fastsam_core.edges import edge_map, max_gradient, thin_edges
from fastsam_core.encoded_image import EncodedImage
from fastsam_core.postprocess import MaskResizer
from small_model import QUIET, bgr_image

SIZE = 64  # side of the images here; one logit covers 4 x 4 pixels


def resizer(height: int = SIZE, width: int = SIZE) -> MaskResizer:
    return MaskResizer((height, width), (height, width), SIZE)


def logits_of(*masks: np.ndarray, contrast: float = 20.0) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.where(mask, contrast, -contrast) for mask in masks]).astype(np.float32))


def edges_of(logits: torch.Tensor, thin: bool = False, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    made = resizer(*size)
    strength, across, down = max_gradient(logits, made.measure(logits).boxes, made)
    return thin_edges(strength, across, down) if thin else strength


def square(first: int, last: int) -> np.ndarray:
    mask = np.zeros((SIZE // 4, SIZE // 4), bool)
    mask[first:last, first:last] = True
    return mask


@pytest.mark.parametrize("size", [(SIZE, SIZE), (40, 64), (64, 23)])
def test_window_equals_that_part_of_the_whole_mask(size: tuple[int, int]) -> None:
    height, width = size
    low_res = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32))
    for original in (size, (3 * height + 1, 2 * width)):
        made = MaskResizer(size, original, SIZE)
        whole = made.logits(low_res)
        for left, top, right, bottom in (
            (0, 0, original[1], original[0]),
            (3, 5, 17, 30),
            (original[1] - 1, 0, original[1], 1),
        ):
            part = made.window_logits(low_res, left, top, right, bottom)
            torch.testing.assert_close(part, whole[top:bottom, left:right], rtol=0, atol=1e-5)


def test_strengths_equal_filters_over_the_whole_image() -> None:
    """The implementation filters windows around masks; the expected values come from whole probability maps."""
    import cv2

    rng = np.random.default_rng(1)
    logits = torch.from_numpy(cv2.GaussianBlur(rng.standard_normal((16, 16)).astype(np.float32), (5, 5), 0)[None] * 8)
    logits = torch.cat([logits, -logits, logits.flip(1)])
    made = resizer(40, 64)
    expected = np.zeros((40, 64), np.float32)
    for low_res in logits:
        whole = made.logits(low_res)
        probability, inside = torch.sigmoid(whole).numpy(), (whole > 0).numpy()
        padded = np.pad(probability, 1, mode="edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
        size = np.hypot(rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]) / 4
        for y in range(40):
            for x in range(64):
                around = inside[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if around.any() and not around.all():
                    expected[y, x] = max(expected[y, x], size[y, x])
    strength, _, _ = max_gradient(logits, made.measure(logits).boxes, made)
    np.testing.assert_allclose(strength, expected, atol=2e-5)


def test_image_border_is_no_edge() -> None:
    assert not edges_of(logits_of(np.ones((16, 16), bool))).any()
    half = np.zeros((16, 16), bool)
    half[:, :8] = True
    strength = edges_of(logits_of(half))
    assert strength[:, 31:33].min() > 0.1 and not strength[:, :30].any() and not strength[:, 34:].any()


def test_strength_is_the_maximum_over_masks() -> None:
    faint, clear = logits_of(square(4, 12), contrast=0.5), logits_of(square(4, 12))
    together = edges_of(torch.cat([faint, clear]))
    np.testing.assert_array_equal(together, edges_of(clear))
    assert edges_of(faint).max() < together.max() < 2**0.5


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("kind", ["half", "diagonal", "square"])
def test_thinned_edges_are_one_pixel_wide(kind: str, turn: int) -> None:
    y, x = np.mgrid[:16, :16]
    mask = {"half": x < 8, "diagonal": x + y < 15, "square": square(4, 12)}[kind]
    logits = logits_of(np.rot90(mask, turn))
    if kind == "diagonal":
        logits = torch.from_numpy(np.rot90(4.0 * (15 - x - y), turn).astype(np.float32).copy())[None]
    thick, thin = edges_of(logits), edges_of(logits, thin=True)
    assert ((thin == thick) | (thin == 0)).all()
    kept = np.rot90(thin > 0, -turn)
    if kind == "half":
        assert (kept.sum(1) == 1).all() and kept[:, 31:33].any(1).all()
    elif kind == "diagonal":
        rows, columns = np.nonzero(kept)
        assert (kept[4:-4].sum(1) == 1).all() and len({*(rows + columns)[4:-4].tolist()}) == 1
    else:
        assert (kept[24:40, :32].sum(1) == 1).all() and (kept[:32, 24:40].sum(0) == 1).all()
        assert not kept[20:44, 20:44].any()


def test_thinning_keeps_one_of_two_equal_neighbours() -> None:
    strength = np.zeros((9, 9), np.float32)
    strength[:, 4:6] = 0.5
    still, right = np.zeros((9, 9), np.float32), np.ones((9, 9), np.float32)
    for across, column in ((right, 4), (-right, 5)):
        kept = thin_edges(strength, across, still)
        assert (kept[:, column] == 0.5).all() and kept.sum() == 4.5
    assert not thin_edges(still, still, still).any()


def test_edges_of_an_image_by_predictor_and_sam(model: Any) -> None:
    image = bgr_image(48, 80)
    predictor = Predictor(overrides={**QUIET, "model": model})
    thin = predictor.edges(image, points_stride=4)
    assert thin.shape == (48, 80) and thin.dtype == np.float32 and thin.min() == 0 and thin.max() <= 1
    thick = predictor.edges(image, points_stride=4, thin=False, points_batch_size=5)
    assert thick.max() == 1 and (thin > 0).sum() < (thick > 0).sum() / 1.5
    np.testing.assert_allclose(thin[thin > 0], thick[thin > 0], atol=1e-3)
    sam = SAM(model)
    np.testing.assert_array_equal(sam.edges(image, points_stride=4, imgsz=128), thin)
    model.counts["encoded"] = 0
    predictor.set_image(image)
    np.testing.assert_array_equal(predictor.edges(points_stride=4), thin)
    assert model.counts["encoded"] == 1


def test_masks_without_pixels_give_no_edges(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(image: Any, points: torch.Tensor, labels: torch.Tensor) -> Any:
        # The image is 128 x 77 in the input: each axis has its own factor.
        expected = torch.tensor([[x * 128.0, y * 77.0] for y in (0.25, 0.75) for x in (0.25, 0.75)])
        torch.testing.assert_close(points[:, 0], expected)
        return torch.zeros(len(points), 3), lambda i, j: torch.full((len(i), 32, 32), -1.0)

    monkeypatch.setattr(model, "decode_points", decode)
    model.set_image_size(128)
    for thin in (True, False):
        assert not edge_map(model, EncodedImage(bgr_image(48, 80), "a"), points_stride=2, thin=thin).any()


def test_nms_keeps_the_mask_with_the_highest_predicted_iou(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = logits_of(np.kron(square(4, 12), np.ones((2, 2), bool)))[0]
    scores = torch.tensor([[0.1, 0.9, 0.5]])

    def decode(image: Any, points: torch.Tensor, labels: torch.Tensor) -> Any:
        # The second mask has the highest score, but weak edges; all three have the same box.
        masks = torch.stack([clear, clear / 40, clear])
        return scores.expand(len(points), 3), lambda i, j: masks[torch.as_tensor(j)]

    monkeypatch.setattr(model, "decode_points", decode)
    model.set_image_size(128)
    made = MaskResizer((128, 128), (128, 128), 128)
    encoded = EncodedImage(bgr_image(128, 128), "a")
    faint, across, down = max_gradient((clear / 40)[None], made.measure((clear / 40)[None]).boxes, made)
    found = edge_map(model, encoded, points_stride=2)
    np.testing.assert_allclose(found, thin_edges(faint / faint.max(), across, down), atol=1e-6)
    both = edge_map(model, encoded, points_stride=2, nms_thresh=1)
    assert not np.allclose(found, both)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_stride": 0}, "points_stride must be at least 1"),
        ({"nms_thresh": 1.5}, "nms_thresh must be between 0 and 1"),
    ],
)
def test_invalid_options_and_missing_image_are_refused(model: Any, options: dict[str, Any], message: str) -> None:
    predictor = Predictor(overrides={**QUIET, "model": model})
    with pytest.raises(ValueError, match=message):
        predictor.edges(bgr_image(20, 30), **options)
    with pytest.raises(ValueError, match="no image is set"):
        predictor.edges()
    with pytest.raises(TypeError, match="point_stride"):
        predictor.edges(bgr_image(20, 30), point_stride=3)
