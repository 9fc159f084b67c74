"""Predictor: one picture encoded once, prompts, everything, steps, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor
from fastsam_core import rle as coco
from fastsam_core.models.sam_model import SamModel
from fastsam_core.postprocess import MaskResizer
from fastsam_core.preprocess import preprocess, resized_shape, scale_points
from small_model import FEW, QUIET, bgr_picture, small_model

HEIGHT, WIDTH = 60, 90
BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0], [50.0, 2.0, 76.0, 44.0]]
SIDE = QUIET["imgsz"] // 4


@pytest.fixture(scope="module")
def model() -> SamModel:
    return small_model()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    image = bgr_picture(HEIGHT, WIDTH)
    image.flags.writeable = False
    return image


@pytest.fixture
def predictor(model: SamModel, picture: np.ndarray) -> Predictor:
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.set_image(picture)
    return predictor


def dense(result: Any) -> np.ndarray:
    return np.stack([coco.decode(one) for one in result.masks.rle]).astype(bool)


# --- set once, prompt often ---


def test_the_picture_is_encoded_once(predictor: Predictor, model: Any) -> None:
    before = model.counts["encoded"]
    for _ in range(3):
        predictor(bboxes=[10, 10, 50, 50])
        predictor(points=[30, 20], labels=[1])
        predictor.prompt_inference(points=[30, 20])
        predictor(**FEW)
    assert model.counts["encoded"] == before


def test_features(predictor: Predictor, model: SamModel) -> None:
    features = predictor.features
    assert features is not None and features.shape == (1, 128, 8, 8) and features.dtype == torch.float32
    assert not features.is_inference() and not features.requires_grad
    expected = model.encode_image(preprocess(bgr_picture(HEIGHT, WIDTH)[..., ::-1].copy(), 128)[0])
    assert torch.allclose(features, expected.detach(), atol=1e-5)


def test_masks_are_those_of_the_model(predictor: Predictor, model: SamModel) -> None:
    """Every step by hand: scaled prompts, decoder, two-step upsampling, threshold."""
    resized = resized_shape(HEIGHT, WIDTH, 128)
    points = scale_points(torch.tensor([[[30.0, 20.0], [70.0, 50.0]]]), (HEIGHT, WIDTH), resized)
    with torch.no_grad():
        low_res, scores = model.decode_prompts(predictor.features, points, torch.tensor([[1, 0]]))
    full = MaskResizer(resized, (HEIGHT, WIDTH), 128).logits(low_res[0, 0])
    result = predictor(points=[[[30, 20], [70, 50]]], labels=[[1, 0]])[0]
    assert (dense(result)[0] == (full > 0).numpy()).all()
    assert torch.allclose(result.boxes.conf, scores[0])
    ys, xs = np.nonzero((full > 0).numpy())
    assert result.boxes.xyxy[0].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    assert result.masks.data.dtype == torch.bool and result.masks.is_rle
    low, iou = predictor.prompt_inference(points=[[[30, 20], [70, 50]]], labels=[[1, 0]])
    assert torch.allclose(low, low_res[0], atol=1e-5) and torch.allclose(iou, scores[0])


def test_objects_with_other_numbers_of_points_stay_in_order(predictor: Predictor) -> None:
    objects = [[[30, 20]], [[70, 50], [40, 30]], [[60, 40]], [[20, 50], [10, 10]]]
    together = predictor(points=objects, multimask_output=True)[0]
    alone = [predictor(points=[points], multimask_output=True)[0] for points in objects]
    assert together.boxes.cls.tolist() == list(range(12))
    for number, mask in enumerate(together):
        single = alone[number // 3][number % 3]
        assert (dense(mask) != dense(single)).mean() < 1e-3
        assert torch.allclose(mask.predicted_iou, single.predicted_iou, atol=1e-5)
        assert torch.allclose(mask.boxes.xyxy, single.boxes.xyxy, atol=1)
        assert len(mask.point_coords[0]) == len(objects[number // 3])


def test_every_picture_form_gives_the_same_embedding(predictor: Predictor, picture: np.ndarray, tmp_path: Path) -> None:
    import cv2
    from PIL import Image

    file = tmp_path / "picture.png"
    cv2.imwrite(str(file), picture)
    rgb = np.ascontiguousarray(picture[..., ::-1])
    forms: list[Any] = [
        str(file),
        file,
        [file],
        Image.fromarray(rgb),
        torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255,
        torch.from_numpy(rgb).permute(2, 0, 1),
        file.read_bytes(),
    ]
    expected = predictor.features
    for form in forms:
        predictor.set_image(form)
        assert torch.equal(predictor.features, expected), type(form)
    assert predictor(bboxes=BOXES[0])[0].path == "image0.jpg"


def test_the_frame_is_the_predictors_own(predictor: Predictor) -> None:
    mine = bgr_picture(HEIGHT, WIDTH)
    predictor.set_image(mine)
    mine[:] = 0
    assert predictor(bboxes=BOXES[0])[0].orig_img.any()


@pytest.mark.parametrize("several", ["list", "batch", "folder", "none"])
def test_set_image_takes_exactly_one_picture(predictor: Predictor, tmp_path: Path, several: str) -> None:
    import cv2

    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), bgr_picture(20, 30))
    given: Any = {
        "list": [bgr_picture(20, 30)] * 2,
        "batch": torch.rand(2, 3, 32, 32),
        "folder": tmp_path,
        "none": [],
    }[several]
    before = predictor.features
    with pytest.raises(ValueError, match=r"exactly one picture|empty list"):
        predictor.set_image(given)
    assert predictor.features is before, "what was set before stays"


def test_set_image_refuses_what_is_no_picture(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        predictor.set_image(tmp_path / "missing.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        predictor.set_image(tmp_path / "bad.jpg")
    with pytest.raises(TypeError, match="imread"):
        predictor.set_image(None)


def test_prompting_before_set_image_and_after_reset(model: SamModel) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    for call in (predictor, predictor.prompt_inference):
        with pytest.raises(ValueError, match="call set_image first"):
            call(bboxes=[1, 2, 3, 4])
    predictor.set_image(bgr_picture(20, 30))
    assert len(predictor(bboxes=[1, 2, 10, 10])[0]) == 1
    predictor.reset_image()
    assert predictor.features is None and predictor.im is None
    with pytest.raises(ValueError, match="call set_image first"):
        predictor(points=[1, 2])


def test_another_input_size_encodes_again_and_the_models_own_is_the_default(model: Any, picture: np.ndarray) -> None:
    model.set_image_size(512)
    predictor = Predictor(overrides={"model": model, **QUIET, "imgsz": None})
    predictor.set_image(picture)
    assert predictor.imgsz == 512 and predictor.features.shape == (1, 128, 32, 32)
    before = model.counts["encoded"]
    predictor(bboxes=BOXES[0], imgsz=(256, 256))
    assert predictor.features.shape == (1, 128, 16, 16)
    assert predictor.prompt_inference(bboxes=BOXES[0])[0].shape == (1, 128, 128)
    assert model.counts["encoded"] == before + 2


def test_assigned_features_are_used(predictor: Predictor, model: Any) -> None:
    expected = dense(predictor(bboxes=BOXES)[0])
    features, before = predictor.features.clone(), model.counts["encoded"]
    predictor.set_image(bgr_picture(HEIGHT, WIDTH)[::-1])
    assert (dense(predictor(bboxes=BOXES)[0]) != expected).any()
    predictor.features = features
    assert (dense(predictor(bboxes=BOXES)[0]) == expected).all()
    assert model.counts["encoded"] == before + 1
    with pytest.raises(ValueError, match="shape"):
        predictor.features = features[:, :, :4]


# --- prompts ---


def test_objects_don_t_influence_each_other(predictor: Predictor) -> None:
    """40 objects, more than are decoded at once, with one to three points: each as if alone, in order."""
    rng = np.random.default_rng(0)
    points = [rng.uniform((0, 0), (WIDTH, HEIGHT), (1 + i % 3, 2)).tolist() for i in range(40)]
    labels = [[1, 0, 1][: len(each)] for each in points]
    low_res, scores = predictor.prompt_inference(points=points, labels=labels, multimask_output=True)
    assert low_res.shape == (120, SIDE, SIDE) and scores.shape == (120,)
    for i in (0, 1, 2, 17, 38, 39):
        alone, score = predictor.prompt_inference(points=[points[i]], labels=[labels[i]], multimask_output=True)
        assert torch.allclose(low_res[3 * i : 3 * i + 3], alone, atol=2e-4)
        assert torch.allclose(scores[3 * i : 3 * i + 3], score, atol=1e-4)
    result = predictor(points=points, labels=labels)[0]
    assert len(result) == 40 and result.boxes.cls.tolist() == list(range(40))
    assert [len(each) for each in result.point_coords] == [len(each) for each in points]


def test_points_and_boxes_combine_per_object(predictor: Predictor) -> None:
    points = [[10, 10], [30, 30], [60, 20]]
    low_res, _ = predictor.prompt_inference(bboxes=BOXES, points=points, labels=[1, 0, 1])
    assert len(low_res) == 3
    one, _ = predictor.prompt_inference(bboxes=BOXES[1], points=points[1], labels=0)
    assert torch.allclose(low_res[1], one[0], atol=2e-4)
    assert not torch.allclose(low_res[1], predictor.prompt_inference(bboxes=BOXES[1])[0][0], atol=1e-2)


def test_mask_prompts(predictor: Predictor) -> None:
    low_res, _ = predictor.prompt_inference(points=[30, 20])
    refined, score = predictor.prompt_inference(points=[30, 20], masks=low_res)
    assert refined.shape == (1, SIDE, SIDE) and score.shape == (1,)
    assert not torch.allclose(refined, low_res, atol=1e-3)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[10:40, 20:70] = True
    assert len(predictor(masks=inside)[0]) == 1
    assert len(predictor(masks=np.stack([inside, ~inside]), bboxes=BOXES[:2])[0]) == 2
    with pytest.raises(ValueError, match="height x width"):
        predictor(masks=np.zeros((50, 50)))


def test_multimask_is_object_major_and_each_mask_its_own_class(predictor: Predictor) -> None:
    low_res, scores = predictor.prompt_inference(points=[[10, 10], [60, 40]], multimask_output=True)
    result = predictor(points=[[10, 10], [60, 40]], multimask_output=True)[0]
    assert len(result) == 6 and result.names == {i: str(i) for i in range(6)}
    assert result.boxes.cls.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.allclose(result.boxes.conf, scores)
    resizer = MaskResizer(resized_shape(HEIGHT, WIDTH, 128), (HEIGHT, WIDTH), 128)
    for mask, logits in zip(dense(result), low_res, strict=True):
        assert (mask == (resizer.logits(logits) > 0).numpy()).all()


def test_conf_drops_masks_and_keeps_their_numbers(predictor: Predictor) -> None:
    scores = predictor(bboxes=BOXES)[0].predicted_iou
    middle = float(scores.sort().values[1])
    result = predictor(bboxes=BOXES, conf=middle)[0]
    best = int(scores.argmax())
    assert result.boxes.cls.tolist() == [best], "strictly greater"
    assert result.names == {0: "0", 1: "1", 2: "2"}
    nothing = predictor(bboxes=BOXES, conf=1e9)[0]
    assert len(nothing) == 0 and nothing.masks.shape == (0, HEIGHT, WIDTH) and nothing.boxes.shape == (0, 6)


@pytest.mark.parametrize("prompts", [{"bboxes": []}, {"points": []}, {"points": [], "labels": []}, {"masks": []}])
def test_empty_prompts_give_empty_results_without_work(model: Any, picture: np.ndarray, prompts: dict) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    before = model.counts["encoded"]
    result = predictor(picture, **prompts)[0]
    assert len(result) == 0 and result.boxes.shape == (0, 6) and result.masks is None
    assert model.counts["encoded"] == before
    predictor.set_image(picture)
    low_res, scores = predictor.prompt_inference(**prompts, multimask_output=True)
    assert low_res.shape == (0, SIDE, SIDE) and scores.shape == (0,)


def test_returned_tensors_are_ordinary(predictor: Predictor) -> None:
    low_res, scores = predictor.prompt_inference(bboxes=BOXES)
    result = predictor(bboxes=BOXES)[0]
    for tensor in (low_res, scores, result.boxes.data, result.predicted_iou):
        assert not tensor.is_inference() and not tensor.requires_grad
        (tensor * torch.ones(1, requires_grad=True)).sum().backward()


def test_arguments_are_left_alone(predictor: Predictor, picture: np.ndarray) -> None:
    boxes, points = torch.tensor(BOXES), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    first = predictor(picture, bboxes=boxes, points=points)[0]
    second = predictor(picture, bboxes=boxes, points=points)[0]
    assert boxes.tolist() == BOXES and points.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert first.masks.rle == second.masks.rle
    overrides = {"model": predictor.model, **QUIET}
    before = dict(overrides)
    Predictor(overrides=overrides)(picture, bboxes=BOXES)
    assert overrides == before


def test_set_prompts_holds_for_one_call(predictor: Predictor) -> None:
    predictor.set_prompts({"bboxes": BOXES})
    assert len(predictor()[0]) == 3
    assert predictor.prompts == {}
    with pytest.raises(TypeError, match="bbox"):
        predictor.set_prompts({"bbox": BOXES})


# --- everything ---


def test_everything_is_generate_masks(predictor: Predictor, model: SamModel) -> None:
    from fastsam_core.everything import generate_masks

    def decode(crop_box: Any, points: torch.Tensor) -> Any:
        assert list(crop_box) == [0, 0, WIDTH, HEIGHT]
        return model.decode_points(predictor.features, points[:, None], torch.ones(len(points), 1, dtype=torch.int64))

    options = {**FEW, "points_stride": 4}
    own = {
        "stability_share": 0.5,
        "highest_stability": 0.75,
        "min_mask_region_area": model.judgement.least_region * HEIGHT * WIDTH,
    }
    assert own["stability_share"] == model.judgement.stability_share and own["min_mask_region_area"] > 1
    records = generate_masks(decode, (HEIGHT, WIDTH), **options, **own, input_long_side=128)
    result = predictor(**options)[0]
    assert len(records) == len(result) > 0
    for record, got in zip(records, result.to_dicts(), strict=True):
        assert got["segmentation"] == record["segmentation"]
        assert got["bbox"] == record["bbox"] and got["crop_box"] == record["crop_box"]
        assert got["predicted_iou"] == pytest.approx(record["predicted_iou"])
        assert got["point_coords"] == [pytest.approx(point) for point in record["point_coords"]]
    assert result.boxes.cls.tolist() == list(range(len(records)))
    masks, scores, boxes = predictor.generate(**options)
    assert torch.equal(masks, result.masks.data) and masks.dtype == torch.bool
    assert torch.equal(scores, result.boxes.conf) and torch.equal(boxes, result.boxes.xyxy)


def test_metas_names(predictor: Predictor) -> None:
    ours = predictor(points_stride=3, conf_thres=-1e9, stability_score_thresh=-1, iou=0.5)[0]
    metas = predictor(points_per_side=3, pred_iou_thresh=-1e9, stability_score_thresh=-1, box_nms_thresh=0.5)[0]
    assert ours.masks.rle == metas.masks.rle and len(ours) > 0


def test_crops_are_cut_from_the_picture_and_encoded_on_their_own(predictor: Predictor, model: Any) -> None:
    seen = []
    plain = model.encode_image

    def spy(images: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        seen.append(images)
        return plain(images, dtype)

    model.encode_image = spy
    try:
        result = predictor(**FEW, crop_n_layers=1, crop_overlap_ratio=0)[0]
    finally:
        model.encode_image = plain
    assert len(seen) == 4, "the whole picture is encoded already"
    corner = preprocess(bgr_picture(HEIGHT, WIDTH)[: HEIGHT // 2, : WIDTH // 2, ::-1].copy(), 128)[0]
    assert torch.equal(seen[0], corner)
    assert {tuple(box) for box in result.crop_boxes.tolist()} <= {
        (0, 0, WIDTH, HEIGHT),
        *((x, y, WIDTH / 2, HEIGHT / 2) for x in (0, WIDTH / 2) for y in (0, HEIGHT / 2)),
    }


def test_conf_holds_for_everything_too(predictor: Predictor) -> None:
    everything = predictor(**FEW, iou=1)[0]
    level = float(everything.predicted_iou.median())
    some = predictor(**FEW, iou=1, conf=level)[0]
    kept = everything.predicted_iou > level
    assert 0 < len(some) < len(everything)
    assert some.boxes.cls.tolist() == everything.boxes.cls[kept].tolist()
    none = predictor(**FEW, conf=1e9)[0]
    assert none.masks.shape == (0, HEIGHT, WIDTH)
    assert predictor(**{**FEW, "conf_thres": 1e9})[0].masks is None


# --- sources ---


def test_lists_batches_and_folders_one_after_the_other(model: SamModel, tmp_path: Path) -> None:
    import cv2

    predictor = Predictor(overrides={"model": model, **QUIET})
    pictures = [bgr_picture(40, 60), bgr_picture(50, 30), bgr_picture(40, 60)[:, ::-1].copy()]
    single = [predictor(image, bboxes=BOXES[0])[0] for image in pictures]
    several = predictor(pictures, bboxes=BOXES[0])
    assert [result.masks.rle for result in several] == [result.masks.rle for result in single]
    assert [result.path for result in several] == ["image0.jpg", "image1.jpg", "image2.jpg"]
    assert [result.orig_shape for result in several] == [(40, 60), (50, 30), (40, 60)]

    batch = torch.stack([torch.from_numpy(pictures[i][..., ::-1].copy()).permute(2, 0, 1) for i in (0, 2)]) / 255
    assert [r.masks.rle for r in predictor(batch, bboxes=BOXES[0])] == [single[i].masks.rle for i in (0, 2)]

    for i, image in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "1a.png").write_bytes(b"broken")
    found = predictor(tmp_path, bboxes=BOXES[0])
    assert [Path(result.path).name for result in found] == ["0.png", "1.png", "2.png"]
    assert [result.masks.rle for result in found] == [result.masks.rle for result in single]


def test_a_single_bad_picture_raises(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"bad\.png"):
        predictor(tmp_path / "bad.png", bboxes=BOXES[0])
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "missing.png", bboxes=BOXES[0])


def test_stream_works_as_it_is_consumed(model: Any) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    before = model.counts["encoded"]
    results = predictor([bgr_picture(20, 30)] * 3, stream=True, bboxes=BOXES[0])
    assert model.counts["encoded"] == before
    assert len(next(results)) == 1
    assert model.counts["encoded"] == before + 1
    results.close()
    assert predictor.seen == 1


def test_a_source_leaves_the_picture_that_is_set(predictor: Predictor) -> None:
    before = predictor(bboxes=BOXES[0])[0].masks.rle
    predictor(bgr_picture(20, 30), bboxes=BOXES[0])
    assert predictor(bboxes=BOXES[0])[0].masks.rle == before


def test_speed_and_lines(
    model: SamModel, picture: np.ndarray, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET, "verbose": True})
    result = predictor(picture, bboxes=BOXES)[0]
    assert set(result.speed) == {"preprocess", "inference", "postprocess"}
    assert all(value > 0 for value in result.speed.values())
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"image 1/1 image0.jpg: {HEIGHT}x{WIDTH} 3 masks, ") and first.endswith("ms")
    assert last.startswith("Speed: ") and last.endswith("at shape (1, 3, 128, 128)")
    with caplog.at_level("INFO", logger="fastsam_core"):
        predictor(picture, bboxes=BOXES[0])
    assert "3 masks" not in caplog.text and "1 mask," in caplog.text, "an application's own logging is used"
    assert capsys.readouterr().err == ""
    predictor(picture, bboxes=BOXES, verbose=False)
    assert capsys.readouterr().err == ""


# --- the steps one by one ---


def test_preprocess_then_inference_then_postprocess(predictor: Predictor, model: Any, picture: np.ndarray) -> None:
    expected = predictor(bboxes=BOXES)[0]
    predictor.reset_image()
    pixels = predictor.preprocess([picture])
    assert pixels.shape == (1, 3, 128, 128) and pixels.dtype == torch.float32
    preds = predictor.inference(pixels, bboxes=BOXES)
    result = predictor.postprocess(preds, pixels, [picture])[0]
    assert result.masks.rle == expected.masks.rle
    assert torch.allclose(result.boxes.data, expected.boxes.data, atol=1e-5)
    everything = predictor.postprocess(predictor.inference(pixels, **FEW), pixels, picture)[0]
    assert everything.masks.rle == predictor(picture, **FEW)[0].masks.rle
    assert predictor.features is None


def test_prompt_inference_on_a_picture_of_its_own(predictor: Predictor, model: Any) -> None:
    other = bgr_picture(30, 50)
    before, kept = model.counts["encoded"], predictor.features
    low_res, _ = predictor.prompt_inference(other, bboxes=[1, 2, 20, 20])
    assert model.counts["encoded"] == before + 1 and predictor.features is kept
    predictor.set_image(other)
    assert torch.allclose(low_res, predictor.prompt_inference(bboxes=[1, 2, 20, 20])[0], atol=1e-4)
    with pytest.raises(ValueError, match="no prompt"):
        predictor.prompt_inference()


def test_inference_features(predictor: Predictor) -> None:
    expected = predictor(bboxes=BOXES, multimask_output=True)[0]
    masks, boxes = predictor.inference_features(
        predictor.features, (HEIGHT, WIDTH), bboxes=BOXES, multimask_output=True
    )
    assert masks is not None and masks.dtype == torch.bool
    assert torch.equal(masks, expected.masks.data) and torch.allclose(boxes, expected.boxes.data, atol=1e-5)
    masks, boxes = predictor.inference_features(predictor.features, (HEIGHT, WIDTH), (128, 128), bboxes=[])
    assert masks is None and boxes.shape == (0, 6)
    with pytest.raises(ValueError, match="shape"):
        predictor.inference_features(predictor.features[..., :4], (HEIGHT, WIDTH), bboxes=BOXES)


def test_remove_small_regions() -> None:
    masks = torch.zeros(2, 40, 50, dtype=torch.uint8)
    masks[0, 5:25, 5:25] = 1
    masks[0, 10, 10] = 0  # a hole
    masks[1, 20:35, 30:45] = 1
    masks[1, 1, 1] = 1  # an island
    new, keep = Predictor.remove_small_regions(masks, min_area=4)
    assert keep.tolist() == [0, 1] and new.dtype == torch.bool
    assert new[0].sum() == 400 and new[1].sum() == 225 and not new[1, 1, 1]
    same, keep = Predictor.remove_small_regions(torch.stack([masks[0], masks[0]]), min_area=0)
    assert keep.tolist() == [0] and torch.equal(same[0], masks[0].bool())
    empty, keep = Predictor.remove_small_regions(torch.zeros(0, 4, 4))
    assert len(empty) == len(keep) == 0


def test_predict_cli_keeps_nothing(predictor: Predictor, picture: np.ndarray) -> None:
    seen = predictor.seen
    predictor.set_prompts({"bboxes": BOXES})
    assert predictor.predict_cli(picture) is None
    assert predictor.seen == seen + 1


# --- callbacks, threads, models, devices ---


def test_callbacks(predictor: Predictor, picture: np.ndarray) -> None:
    events: list[str] = []
    for event in (
        "on_predict_start",
        "on_predict_batch_start",
        "on_predict_postprocess_end",
        "on_predict_batch_end",
        "on_predict_end",
    ):
        predictor.add_callback(event, lambda _, event=event: events.append(event))

    def first_only(running: Predictor) -> None:
        assert running.batch is not None and running.batch[0] == [running.results[0].path]
        running.results = [running.results[0][:1]]

    predictor.add_callback("on_predict_postprocess_end", first_only)
    results = predictor([picture, picture], bboxes=BOXES)
    assert [len(result) for result in results] == [1, 1]
    one = ["on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end"]
    assert events == ["on_predict_start", *one, *one, "on_predict_end"]
    with pytest.raises(ValueError, match="on_predict_start"):
        predictor.add_callback("on_train_start", print)


def test_threads_take_turns(predictor: Predictor) -> None:
    expected = [predictor(bboxes=box)[0].masks.rle for box in BOXES]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = predictor(bboxes=BOXES[i])[0].masks.rle

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(3)] == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_amid_a_prediction_can_predict(predictor: Predictor) -> None:
    # The lock is held by a thread that the child doesn't have. A hang would end in the alarm.
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with predictor._lock:
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert inside.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if predictor._lock.acquire(timeout=20) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


def test_models(model: SamModel, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no model"):
        Predictor(overrides=QUIET).set_image(picture)
    with pytest.raises(TypeError, match="SamModel"):
        Predictor(overrides={**QUIET, "model": 3}).set_image(picture)
    with pytest.raises(FileNotFoundError):
        Predictor(overrides={**QUIET, "model": "no_such_model.pt"}).set_image(picture)
    predictor = Predictor({"conf": 0.5}, QUIET)
    assert predictor.args.conf == QUIET["conf"] and predictor.device is None and predictor.imgsz is None
    predictor.setup_model(model)
    assert predictor.model is model and not model.training and predictor.device == torch.device("cpu")
    with pytest.raises(ValueError, match="CUDA devices"):
        predictor(picture, bboxes=BOXES, device="cuda:99")


def test_half_precision_on_the_cpu_is_float32_and_said(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    from fastsam_core._log import warn_once

    warn_once.cache_clear()
    expected = predictor(bboxes=BOXES)[0]
    result = predictor(bboxes=BOXES, half=True)[0]
    assert result.masks.rle == expected.masks.rle
    assert "float32" in caplog.text


def test_predictions_are_made_in_evaluation_mode(model: SamModel, picture: np.ndarray) -> None:
    expected = Predictor(overrides={"model": model, **QUIET})(picture, bboxes=BOXES)[0].masks.rle
    before = {name: value.clone() for name, value in model.named_buffers()}
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.setup_model()
    model.image_encoder.train()
    assert predictor(picture, bboxes=BOXES)[0].masks.rle == expected
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert not any(part.training for part in model.modules())


def test_options_are_checked(predictor: Predictor) -> None:
    with pytest.raises(TypeError, match="overrides must be options by name"):
        Predictor(overrides=["sam_b.pt"])
    with pytest.raises(TypeError, match=r"cfg must be options by name, .*, not 'sam_b.pt'"):
        Predictor("sam_b.pt")
    for shape in ((0, 90), "ab", 5):
        with pytest.raises(ValueError, match="src_shape must be"):
            predictor.inference_features(predictor.features, shape, bboxes=BOXES)
    masks, kept = Predictor.remove_small_regions(np.ones((2, 5, 5), bool))
    assert masks.shape == (1, 5, 5) and kept.tolist() == [0]
    with pytest.raises(TypeError, match="did you mean bboxes"):
        predictor(bbox=[1, 2, 3, 4])
    with pytest.raises(TypeError, match="points_stride"):
        Predictor(overrides={"point_stride": 8})
