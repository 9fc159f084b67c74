"""Tests of `MaskScoring`: predicted IoU as a mix of the decoder's value and stability, and masks limited to boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsam_core import Predictor
from fastsam_core.everything import generate_masks
from fastsam_core.models import registry
from fastsam_core.models.mask_scoring import OFFICIAL, MaskScoring, stability_score
from small_model import FEW, QUIET, bgr_image, small_model


def test_stability_is_the_ratio_of_strict_to_loose_mask_areas() -> None:
    logits = torch.full((3, 2, 8, 8), -2.0)
    logits[0, 0, :2] = 0.5  # within the offset of the threshold
    logits[0, 0, 2:4] = 1.5
    logits[1, 1, 0, 0] = 3.0
    found = stability_score(logits)
    assert found.shape == (3, 2) and found.dtype == torch.float32
    assert found.tolist() == [[0.5, 0.0], [0.0, 1.0], [0.0, 0.0]]  # empty masks: 0, not NaN


def test_predicted_iou_mixes_decoder_and_stability_by_share() -> None:
    logits, decoded = 3 * torch.randn(5, 3, 16, 16), torch.rand(5, 3)
    assert OFFICIAL.predicted_iou(decoded, logits) is decoded
    found = MaskScoring(stability_share=0.25).predicted_iou(decoded, logits)
    torch.testing.assert_close(found, 0.75 * decoded + 0.25 * stability_score(logits))


def test_official_models_use_only_the_decoders_iou() -> None:
    assert MaskScoring(0.25, 0.88, 0.95, stability_share=0, consensus=0, least_region=0) == OFFICIAL
    for name in set(registry.MODELS) - {"sam_nano"}:
        assert registry.MODELS[name].mask_scoring is OFFICIAL


WITHIN = MaskScoring(within_box=True)
EVERYWHERE = torch.full((1, 1, 32, 32), 9.0)  # logits of a mask that covers the whole input of 128 x 128 pixels


def mask_in(box: list[float], points: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    logits = WITHIN.clip_to_boxes(EVERYWHERE, torch.tensor([box]), points, labels)
    return (F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False) > 0)[0, 0]


@pytest.mark.parametrize("box", [[20.0, 36.0, 90.0, 71.0], [3.0, 5.0, 22.0, 121.0], [0.0, 0.0, 127.0, 127.0]])
def test_mask_is_cut_at_its_box(box: list[float]) -> None:
    found = mask_in(box)
    rows, columns = found.any(1).nonzero()[:, 0], found.any(0).nonzero()[:, 0]
    for ends, (first, last) in ((columns, box[0::2]), (rows, box[1::2])):
        assert abs(int(ends[0]) - first) <= 1 and abs(int(ends[-1]) - last) <= 1
    # Corners are rounded off by less than a cell.
    assert found.sum() >= 0.97 * (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def test_mask_inside_its_box_is_unchanged() -> None:
    logits = torch.full((2, 3, 32, 32), -5.0)
    logits[..., 10:14, 12:20] = 2.0
    boxes = torch.tensor([[20.0, 20.0, 100.0, 90.0], [30.0, 30.0, 99.0, 99.0]])
    assert torch.equal(WITHIN.clip_to_boxes(logits, boxes, None, None) > 0, logits > 0)
    assert OFFICIAL.clip_to_boxes(logits, boxes, None, None) is logits
    assert WITHIN.clip_to_boxes(logits, None, torch.zeros(2, 1, 2), torch.ones(2, 1)) is logits


@pytest.mark.parametrize("x", [50.0, 51.0, 53.0, 127.0])
def test_box_narrower_than_a_cell_still_has_a_mask(x: float) -> None:
    assert mask_in([x, 60.0, x, 61.0]).any()


@pytest.mark.parametrize(
    ("point", "label", "whole"), [(100, 1, True), (100, 0, False), (40, 1, False), (100, -1, False)]
)
def test_foreground_click_outside_the_box_lifts_the_limit(point: float, label: int, whole: bool) -> None:
    points = torch.tensor([[[40.0, 40.0], [point, 40.0]]])
    found = mask_in([20.0, 20.0, 60.0, 60.0], points, torch.tensor([[1, label]]))
    assert bool(found.all()) is whole and found.any()


@torch.no_grad()
def test_sam_nano_limits_masks_to_their_boxes() -> None:
    model = registry.build("sam_nano").eval()
    model.set_image_size(128)
    model.mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias.data.fill_(5)  # masks everywhere
    boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0], [70.0, 8.0, 120.0, 40.0]])
    embedding = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(1))
    logits, iou = model.decode_prompts(embedding, boxes=boxes)
    model.mask_scoring = replace(model.mask_scoring, within_box=False)
    freely, same = model.decode_prompts(embedding, boxes=boxes)
    inside = WITHIN.clip_to_boxes(torch.full_like(logits, 9.0), boxes, None, None) > 0
    assert torch.equal(iou, same)
    assert bool((freely > 0)[~inside].any()) and not (logits > 0)[~inside].any()
    assert torch.equal((logits > 0)[inside], (freely > 0)[inside])


def _blobs(points: Tensor) -> tuple[Tensor, Any]:
    """Return discs whose borders are softer further right, and scores that fall from top to bottom."""
    scores = (1 - points[:, 1:] / 64).expand(-1, 3) * torch.tensor([1.0, 0.9, 0.8])

    def logits(point_index: Any, mask_index: Any) -> Tensor:
        centre = points[torch.as_tensor(point_index)] / 4
        cells = torch.arange(16) + 0.5
        radius = 2.0 + torch.as_tensor(mask_index)[:, None, None]
        far = torch.hypot(
            cells[None, None, :] - centre[:, 0, None, None], cells[None, :, None] - centre[:, 1, None, None]
        )
        return (radius - far) * (8 - 0.45 * centre[:, 0, None, None])

    return scores, logits


LOOSE: dict[str, Any] = {"points_stride": 4, "stability_score_thresh": -1.0, "input_long_side": 64, "box_nms_thresh": 1}


@pytest.mark.parametrize(("share", "highest"), [(0.3, 1.0), (0.5, 1.0), (0.5, 0.85)])
@pytest.mark.parametrize("conf_thres", [-1.0, 0.5, 0.76])
def test_segment_everything_filters_by_mixed_iou(share: float, highest: float, conf_thres: float) -> None:
    """The expected records are made by decoding all masks, mixing their scores here and filtering."""
    seen: list[int] = []

    def decode(crop_box: Any, points: Tensor) -> Any:
        scores, logits = _blobs(points)

        def counted(point_index: Any, mask_index: Any) -> Tensor:
            seen.append(len(point_index))
            return logits(point_index, mask_index)

        return scores, counted

    found = generate_masks(
        decode, (64, 64), conf_thres=conf_thres, stability_share=share, highest_stability=highest, **LOOSE
    )
    made = sum(seen)
    plain = generate_masks(decode, (64, 64), conf_thres=-1.0, **LOOSE)
    expected = {}
    for record in plain:
        value = (1 - share) * record["predicted_iou"] + share * record["stability_score"]
        if value > conf_thres and (1 - share) * record["predicted_iou"] + share * highest > conf_thres:
            expected[record["segmentation"]["counts"]] = value
    assert {record["segmentation"]["counts"]: record["predicted_iou"] for record in found} == pytest.approx(expected)
    values = [record["predicted_iou"] for record in found]
    assert values == sorted(values, reverse=True) and len(values) > 2
    # Masks that would fail even with the highest stability aren't decoded.
    hopeless = sum((1 - share) * record["predicted_iou"] + share * highest <= conf_thres for record in plain)
    assert made == len(plain) - hopeless and (hopeless > 0) == (conf_thres > share * highest)


@pytest.mark.parametrize("name", ["stability_share", "highest_stability"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_stability_shares_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        generate_masks(lambda box, points: _blobs(points), (64, 64), **{name: value}, **LOOSE)
    with pytest.raises(ValueError, match="must be below 1"):
        generate_masks(lambda box, points: _blobs(points), (64, 64), stability_share=1, **LOOSE)


def test_decoder_gets_the_lowest_iou_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = small_model(), []
    plain = model.decode_points

    def decode(*arguments: Any, iou_threshold: float) -> Any:
        asked.append(iou_threshold)
        return plain(*arguments, iou_threshold=iou_threshold)

    monkeypatch.setattr(model, "decode_points", decode)
    mask_scoring = model.mask_scoring
    predictor = Predictor(overrides={**QUIET, "model": model, "points_stride": 2})
    for conf_thres, share in ((0.6, 0.5), (0.6, 0.0)):
        model.mask_scoring = replace(mask_scoring, stability_share=share, highest_stability=0.8)
        predictor(bgr_image(40, 60), conf_thres=conf_thres)
    assert asked == pytest.approx([0.4, 0.6], abs=1e-5)


def test_grid_points_are_scored_like_clicks() -> None:
    """Both take half of the decoder's IoU and half of the stability, each at the resolution of its own mask."""
    model = small_model()
    predictor = Predictor(overrides={**QUIET, "model": model})
    image = bgr_image(128, 128)
    options = {**FEW, "iou": 1.0, "points_stride": 1, "min_mask_region_area": 0}
    (everything,) = predictor(image, **options)
    (clicked,) = predictor(image, points=[[64, 64]], labels=[1], multimask_output=True)
    predictor.set_image(image)
    point = torch.tensor([[[64.0, 64.0]]])
    decoded, logits = model.decode_points(predictor.features, point, torch.ones(1, 1))
    of_click = (decoded[0] + stability_score(logits([0, 0, 0], [0, 1, 2]))) / 2
    torch.testing.assert_close(clicked.boxes.conf, of_click, rtol=1e-4, atol=1e-5)
    of_grid = 2 * everything.boxes.conf - everything.stability_score
    torch.testing.assert_close(of_grid.sort().values, decoded[0].sort().values, rtol=1e-4, atol=1e-5)
