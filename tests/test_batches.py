"""Tests `batch=`: images are encoded together, and results and events are those of images one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor
from fastsam_core import rle as coco
from fastsam_core.config import Config
from fastsam_core.encoded_image import EncodedImage, encode_batch
from fastsam_core.sources import Item, Source
from small_model import FEW, QUIET, bgr_image, small_model

BOXES = [[4.0, 6.0, 25.0, 20.0], [10.0, 8.0, 28.0, 38.0]]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Five different images of different sizes."""
    shapes = [(40, 60), (50, 30), (41, 60), (128, 128), (200, 90)]
    return [np.roll(bgr_image(*shape), 7 * i, axis=1) for i, shape in enumerate(shapes)]


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(overrides={"model": small_model(), **QUIET})


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal up to float rounding, which may move a few border pixels of masks."""
    masks = [np.stack([coco.decode(m) for m in result.masks.rle]) for result in (one, other)]
    return (
        one.path == other.path
        and one.orig_shape == other.orig_shape
        and torch.allclose(one.predicted_iou, other.predicted_iou, atol=1e-4)
        and torch.equal(one.boxes.cls, other.boxes.cls)
        and float((masks[0] != masks[1]).mean()) < 1e-3
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_results_equal_those_of_single_images(predictor: Predictor, images: list[np.ndarray], size: int) -> None:
    batches = predictor.args.model.batches
    single = predictor(images, bboxes=BOXES)
    assert batches == [1] * 5
    batches.clear()
    together = predictor(images, bboxes=BOXES, batch=size)
    assert batches == [size] * (5 // size) + [5 % size] * (5 % size > 0)
    assert all(map(same, together, single)) and len(together) == 5
    assert all(result.speed["preprocess"] > 0 and result.speed["inference"] > 0 for result in together)


def test_sam_encodes_in_batches_without_prompts(images: list[np.ndarray]) -> None:
    sam = SAM(small_model())
    single = sam(images, **QUIET, **FEW)
    sam.model.batches.clear()
    together = sam(images, **QUIET, **FEW, batch=8)
    assert sam.model.batches == [5] and all(map(same, together, single))
    sam.model.batches.clear()
    crops = sam(images[:2], **QUIET, **FEW, batch=2, crop_n_layers=1)
    assert sam.model.batches == [2] + [1] * 8 and [len(result) > 0 for result in crops] == [True, True]


def test_set_image_works_with_batch(predictor: Predictor, images: list[np.ndarray]) -> None:
    predictor.set_image(images[0])
    (result,) = predictor(bboxes=BOXES, batch=2)
    assert same(result, predictor(images[:1], bboxes=BOXES)[0])


def test_embeddings_equal_those_of_single_images(images: list[np.ndarray]) -> None:
    model = small_model()
    model.set_image_size(128)
    alone = [EncodedImage(image, "") for image in images]
    for encoded in alone:
        encoded.prepared(model)
    together = [EncodedImage(image, "") for image in images]
    together[1].features = torch.zeros(1, 128, 8, 8)  # already set, so not computed
    model.batches.clear()
    encode_batch(model, together, None)
    encode_batch(model, together, None)
    assert model.batches == [4]
    for i, (one, other) in enumerate(zip(alone, together, strict=True)):
        if i != 1:
            torch.testing.assert_close(one.features, other.features, atol=1e-5, rtol=1e-5)
    assert not together[1].features.any()


def test_at_most_one_batch_is_read_ahead(predictor: Predictor, images: list[np.ndarray]) -> None:
    taken: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for i in range(7):
            taken.append(i)
            yield images[i % 5]

    for i, result in enumerate(predictor(source(), stream=True, bboxes=BOXES, batch=3)):
        assert result.path == f"image{i}.jpg"
        assert len(taken) == min(7, 3 * (i // 3 + 1))
    assert taken == list(range(7))
    assert max(predictor.args.model.batches) == 3


def test_unreadable_images_are_left_out_of_batches(
    predictor: Predictor, images: list[np.ndarray], tmp_path: Path
) -> None:
    import cv2

    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "0a.png").write_bytes(b"broken")
    found = predictor(tmp_path, bboxes=BOXES, batch=2)
    assert [Path(result.path).name for result in found] == [f"{i}.png" for i in range(5)]
    assert predictor.args.model.batches == [2, 2, 1]


def test_source_error_follows_results_of_earlier_images(predictor: Predictor, images: list[np.ndarray]) -> None:
    def source() -> Iterator[Any]:
        yield images[0]
        yield images[1]
        yield 3.5

    results = predictor(source(), stream=True, bboxes=BOXES, batch=8)
    assert [next(results).orig_shape, next(results).orig_shape] == [(40, 60), (50, 30)]
    with pytest.raises(TypeError, match="float"):
        next(results)


def test_empty_prompts_encode_nothing(predictor: Predictor, images: list[np.ndarray]) -> None:
    for nothing in ({"bboxes": []}, {"texts": []}):
        found = predictor(images, **nothing, batch=4)
        assert [result.masks for result in found] == [None] * 5 and predictor.args.model.batches == []


def test_callbacks_run_for_each_image(predictor: Predictor, images: list[np.ndarray]) -> None:
    seen: list[Any] = []
    predictor.add_callback("on_predict_batch_start", lambda running: seen.append(running.batch[0]))
    predictor.add_callback(
        "on_predict_postprocess_end", lambda running: seen.append([result.path for result in running.results])
    )
    predictor(images[:3], bboxes=BOXES, batch=3)
    assert seen == [[f"image{i}.jpg"] for i in (0, 0, 1, 1, 2, 2)]


def test_live_streams_are_not_batched(
    predictor: Predictor, images: list[np.ndarray], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastsam_core import prediction_loop as module

    given = 0

    def frames() -> Iterator[Item]:
        nonlocal given
        for i in range(3):
            given += 1
            yield Item(images[0], "camera", frame=i, kind="stream")

    monkeypatch.setattr(module, "load_sources", lambda *_, **__: Source("stream", frames))
    assert len(list(predictor(0, stream=True, bboxes=BOXES))) == given and not caplog.records
    given = 0
    for count, _ in enumerate(predictor(0, stream=True, bboxes=BOXES, batch=4), start=1):
        assert given == count
    assert "batch has no effect on live streams" in caplog.text
    assert Config().batch == 1


def test_generator_may_reuse_its_array(predictor: Predictor, images: list[np.ndarray]) -> None:
    first = images[0]
    buffer = np.empty_like(first)

    def camera() -> Any:
        for shade in (1, 2, 3):
            np.floor_divide(first, shade, out=buffer)
            yield buffer

    singly = predictor([first // shade for shade in (1, 2, 3)], bboxes=[4, 6, 40, 30])
    together = predictor(camera(), batch=3, bboxes=[4, 6, 40, 30])
    for one, other, shade in zip(singly, together, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(other.orig_img, first // shade)
        assert same(one, other)
