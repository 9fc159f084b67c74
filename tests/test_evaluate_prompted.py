"""Tests of the evaluation of prompts: clicks, boxes and simulated corrections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core.config import Config
from fastsam_core.encoded_image import EncodedImage
from fastsam_core.evaluate.clicks import innermost_pixel
from fastsam_core.evaluate.datasets import GroundTruthObject
from fastsam_core.evaluate.prompted import MAX_CLICKS, OneClickResult, PromptedSegmenter, bounding_box, innermost_click
from fastsam_core.prompts import Prompts
from label_examples import encoded
from small_model import bgr_image, small_model

# --- prompts and simulated clicks ---


def square(top: int, left: int, side: int, height: int = 40, width: int = 60) -> np.ndarray:
    found = np.zeros((height, width), bool)
    found[top : top + side, left : left + side] = True
    return found


def test_click_and_box_of_an_object() -> None:
    found = GroundTruthObject("a", encoded(square(5, 20, 9)))
    assert innermost_click(found) == (24, 9) and bounding_box(found) == (20, 5, 28, 13)


class Scripted(PromptedSegmenter):
    """A model that answers the k-th prompt for an object with its k-th mask, whose logits are the number k."""

    def __init__(self, masks: list[list[np.ndarray]]) -> None:
        self.masks = masks
        self.asked: list[Prompts] = []

    def _decode(self, prompts: Prompts | None, multimask_output: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        assert prompts is not None and prompts.points is not None and prompts.labels is not None
        self.asked.append(prompts)
        assert not multimask_output
        for points in prompts.points:
            # The first click identifies the object.
            index = int(points[0, 0]) // 20
            yield torch.full((1, 4, 4), float(100 * index + len(points))), torch.zeros(1)

    def _to_rles(self, logits: torch.Tensor) -> list[Any]:
        index, number = divmod(int(logits[0, 0, 0]), 100)
        return [encoded(self.masks[index][number - 1])]


def first_of(mask: np.ndarray, truth: np.ndarray) -> OneClickResult:
    click, _ = innermost_pixel(truth)
    assert click is not None
    iou = (mask & truth).sum() / (mask | truth).sum()
    return OneClickResult(click, encoded(mask), torch.full((4, 4), -7.0), np.array([0.0, 1, 0]), np.array([1, iou, 1]))


def test_clicks_correct_the_mask_until_it_is_good() -> None:
    truths = [square(10, 1, 11), square(10, 22, 11)]
    too_much = truths[0] | square(20, 1, 15)
    half = truths[1].copy()
    half[:, 22:27] = False
    good = truths[1].copy()
    good[10, 22] = False
    masks = [[too_much, square(30, 40, 5), truths[0]], [half, good]]
    scripted = Scripted(masks)
    objects = [GroundTruthObject(str(index), encoded(truth)) for index, truth in enumerate(truths)]
    ious = scripted.simulate_corrections(
        objects, [first_of(one[0], truth) for one, truth in zip(masks, truths, strict=True)], 0.95
    )
    assert [len(one) for one in ious] == [3, 2] and ious[0][2] == 1 and ious[0][1] == 0
    assert ious[1] == pytest.approx([66 / 121, 120 / 121])
    second, third = scripted.asked
    # Both objects get a second click: the first mask is too large, the second too small.
    assert second.points.tolist() == [
        [[6, 15], list(innermost_pixel(too_much & ~truths[0])[0] or ())],
        [[27, 15], [24, 12]],
    ]
    assert second.labels.tolist() == [[1, 0], [1, 1]]
    assert second.masks is not None and (second.masks == -7).all()
    # All of the first object is missing; its third click avoids the pixel that was clicked before.
    missing = truths[0].copy()
    assert third.points[0, 2].tolist() == list(innermost_pixel(missing, [(6, 15)])[0] or ()) and len(third.points) == 1
    assert third.labels.tolist() == [[1, 0, 1]] and third.masks is not None and (third.masks == 2).all()


def test_clicks_end_at_the_limit_or_where_nothing_is_left() -> None:
    truth, wrong = square(10, 1, 11), square(10, 40, 15)
    objects = [GroundTruthObject("a", encoded(truth))]
    scripted = Scripted([[wrong] * MAX_CLICKS])
    (ious,) = scripted.simulate_corrections(objects, [first_of(wrong, truth)], 0.9, mask_feedback=False)
    assert (
        ious == [0.0] * MAX_CLICKS
        and len({tuple(click) for click in scripted.asked[-1].points[0].tolist()}) == MAX_CLICKS
    )
    assert all(prompts.masks is None for prompts in scripted.asked)
    tiny = square(10, 1, 1)
    (ious,) = Scripted([[~tiny & tiny] * 9]).simulate_corrections(
        [GroundTruthObject("a", encoded(tiny))], [first_of(~tiny & tiny, tiny)], 0.9
    )
    assert ious == [0.0]  # its one pixel has been clicked


def test_previous_logits_are_passed_back_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    model.set_image_size(128)
    calls: list[tuple[dict[str, Any], torch.Tensor, torch.Tensor]] = []
    plain = model.decode_prompts

    def spy(embedding: Any, **prompts: Any) -> Any:
        logits, predicted = plain(embedding, **prompts)
        calls.append((prompts, logits, predicted))
        return logits, predicted

    monkeypatch.setattr(model, "decode_prompts", spy)
    segmenter = PromptedSegmenter(model, EncodedImage(bgr_image(40, 60), ""), Config())
    objects = [GroundTruthObject("a", encoded(square(5, 30, 20))), GroundTruthObject("b", encoded(square(2, 2, 9)))]
    first = segmenter.segment_clicks(objects)
    segmenter.simulate_corrections(objects, first, target_iou=1.1, max_clicks=3)
    click, second, third = calls
    assert click[0]["multimask_output"] and not second[0]["multimask_output"]
    # The click (39, 14), scaled to the model's input.
    np.testing.assert_allclose(
        click[0]["points"][0, 0], np.array(innermost_click(objects[0])) * [128 / 60, 85 / 40], rtol=1e-6
    )
    best = click[2].argmax(1)
    for index in range(2):
        torch.testing.assert_close(second[0]["masks"][index, 0], click[1][index, best[index]], rtol=0, atol=0)
        torch.testing.assert_close(third[0]["masks"][index, 0], second[1][index, 0], rtol=0, atol=0)
        assert (
            first[index].predicted_ious.tolist() == click[2][index].tolist() and first[index].best_index == best[index]
        )
    assert third[0]["points"].shape == (2, 3, 2)
