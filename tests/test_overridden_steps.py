"""Predictors whose steps are overridden in a subclass, or replaced in an object or the class, as for Ultralytics."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam_core import Predictor, Results
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel
from predictor_examples import BOXES
from small_model import FEW, QUIET, bgr_image, small_model

IMAGE = bgr_image(60, 90)
MANY = {**FEW, "iou": 1.0}  # segments everything, without removing duplicates


class FirstOnly(Predictor):
    """Keeps only the first mask of each image."""

    def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list[Results]:
        return [result[:1] for result in super().postprocess(preds, img, orig_imgs)]


class Blank(Predictor):
    """Encodes an input of zeros, whatever the image."""

    def preprocess(self, im: Any) -> Tensor:
        return super().preprocess(im) * 0


class Noisy(Predictor):
    """Changes the input in place."""

    def preprocess(self, im: Any) -> Tensor:
        return super().preprocess(im).mul_(-1)


def predictor_of(kind: type[Predictor], model: SamModel, **options: Any) -> Predictor:
    return kind(overrides={"model": model, **QUIET, **options})


def masks_of(results: list[Results]) -> list[Any]:
    return [result.masks and result.masks.rle for result in results]


def test_a_call_gets_the_preds_the_input_and_the_image_to_postprocess(model: SamModel, tmp_path: Path) -> None:
    import cv2

    seen: list[Any] = []

    class Own(Predictor):
        def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list[Results]:
            seen.append((preds[0].shape, img.shape, orig_imgs[0].shape))
            results = super().postprocess(preds, img, orig_imgs)
            results[0].tag = "own"  # type: ignore[attr-defined]
            return results

    path = str(tmp_path / "photo.png")
    cv2.imwrite(path, IMAGE)
    (result,) = predictor_of(Own, model)(path, bboxes=BOXES)
    (expected,) = predictor_of(Predictor, model)(path, bboxes=BOXES)
    assert seen == [((3, 32, 32), (1, 3, 128, 128), (60, 90, 3))]
    assert result.tag == "own" and result.path == expected.path == path
    assert result.masks.rle == expected.masks.rle and result.names == expected.names
    assert torch.allclose(result.boxes.data, expected.boxes.data, atol=1e-5)
    assert result.speed["inference"] > 0


@pytest.mark.parametrize("prompts", [{"bboxes": BOXES}, MANY, {"points": [[30, 20], [9, 9]]}])
def test_postprocess_may_drop_masks_of_any_call(model: SamModel, prompts: dict[str, Any]) -> None:
    (whole,) = predictor_of(Predictor, model)(IMAGE, **prompts)
    (first,) = predictor_of(FirstOnly, model)(IMAGE, **prompts)
    assert len(whole) > 1 and first.masks.rle == whole.masks.rle[:1]


def test_a_method_of_the_object_a_mixin_or_the_class_is_used(model: SamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_of(postprocess: Callable[..., list[Results]]) -> Callable[..., list[Results]]:
        return lambda *args: [result[:1] for result in postprocess(*args)]

    class Mixin:
        def postprocess(self, *args: Any) -> list[Results]:
            return first_of(super().postprocess)(*args)  # type: ignore[misc]

    class Mixed(Mixin, Predictor): ...

    assert len(predictor_of(Mixed, model)(IMAGE, bboxes=BOXES)[0]) == 1
    predictor = predictor_of(Predictor, model)
    assert len(predictor(IMAGE, bboxes=BOXES)[0]) == 3
    predictor.postprocess = first_of(predictor.postprocess)  # type: ignore[method-assign]
    assert len(predictor(IMAGE, bboxes=BOXES)[0]) == 1
    monkeypatch.setattr(Predictor, "postprocess", first_of(Predictor.postprocess))
    assert len(predictor_of(Predictor, model)(IMAGE, bboxes=BOXES)[0]) == 1


def test_inference_gets_the_prompts_as_they_were_given(model: SamModel) -> None:
    calls: list[Any] = []

    class Own(Predictor):
        def inference(self, im: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            calls.append((im.shape, args, kwargs))
            return super().inference(im, *args, **({"multimask_output": True} if "bboxes" in kwargs else {}), **kwargs)

    predictor = predictor_of(Own, model)
    (result,) = predictor(IMAGE, bboxes=[1, 2, 30, 20])
    (expected,) = predictor_of(Predictor, model)(IMAGE, bboxes=[1, 2, 30, 20], multimask_output=True)
    assert result.masks.rle == expected.masks.rle and len(result) == 3
    predictor(IMAGE, conf=-1, **FEW)
    shape = (1, 3, 128, 128)
    assert calls == [(shape, (), {"bboxes": [1, 2, 30, 20]}), (shape, (), FEW)]


def test_logits_and_scores_may_be_replaced(model: SamModel) -> None:
    class Everywhere(Predictor):
        def prompt_inference(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            logits, scores = super().prompt_inference(*args, **kwargs)
            return torch.full_like(logits, 5.0), torch.full_like(scores, 0.5)

    (result,) = predictor_of(Everywhere, model)(IMAGE, bboxes=BOXES)
    assert result.masks.area.tolist() == [60 * 90] * 3 and result.boxes.conf.tolist() == [0.5] * 3


def test_generate_may_change_options_and_masks(model: SamModel) -> None:
    class Own(Predictor):
        def generate(self, im: Any = None, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
            masks, scores, boxes = super().generate(im, **{**options, **MANY})
            return masks[:2], scores[:2], boxes[:2]

    (result,) = predictor_of(Own, model)(IMAGE)
    (expected,) = predictor_of(Predictor, model)(IMAGE, **MANY)
    assert len(expected) > 2 and result.masks.rle == expected.masks.rle[:2]


@pytest.mark.parametrize("kind", [Blank, Noisy])
@pytest.mark.parametrize("prompts", [{"bboxes": BOXES}, {**FEW, "crop_n_layers": 1}])
def test_changed_inputs_are_what_is_encoded(kind: type[Predictor], model: SamModel, prompts: dict[str, Any]) -> None:
    other = (128 - IMAGE) if kind is Noisy else np.zeros_like(IMAGE)
    predictor, plain = predictor_of(kind, model), predictor_of(Predictor, model)
    changed = predictor(IMAGE, **prompts)
    assert masks_of(changed) != masks_of(plain(IMAGE, **prompts))
    assert masks_of(changed) == masks_of(predictor([IMAGE, other], batch=2, **prompts)[:1])
    predictor.set_image(IMAGE)
    assert masks_of(predictor(**prompts)) == masks_of(changed)
    predictor.postprocess = predictor.postprocess  # type: ignore[method-assign] # now step by step
    assert masks_of(predictor(IMAGE, **prompts)) == masks_of(changed)


def test_pixels_may_be_changed_before_they_are_resized(model: SamModel) -> None:
    class Flipped(Predictor):
        def pre_transform(self, im: list[Any]) -> list[Any]:
            return [image[:, ::-1] for image in super().pre_transform(im)]

    flipped = predictor_of(Flipped, model)(IMAGE, bboxes=BOXES)
    assert masks_of(flipped) == masks_of(predictor_of(Predictor, model)(IMAGE[:, ::-1], bboxes=BOXES))


def test_embeddings_may_be_changed(model: SamModel) -> None:
    class Own(Predictor):
        def get_im_features(self, im: Tensor) -> Tensor:
            return super().get_im_features(im) * 0

    predictor, plain = predictor_of(Own, model), predictor_of(Predictor, model)
    results = predictor(IMAGE, bboxes=BOXES)
    plain.set_image(IMAGE)
    plain.features = plain.features * 0
    assert masks_of(results) == masks_of(plain(bboxes=BOXES))
    predictor.set_image(IMAGE)
    assert not predictor.features.any() and masks_of(predictor(bboxes=BOXES)) == masks_of(results)
    for again in (
        copy.deepcopy(predictor),
        pickle.loads(pickle.dumps(predictor_of(Blank, registry.build("sam_nano")))),
    ):
        assert again.current_image is None or masks_of(again(bboxes=BOXES)) == masks_of(results)


def test_a_wrapped_method_is_called_once_per_image(model: SamModel) -> None:
    predictor = predictor_of(Predictor, model)
    with mock.patch.object(predictor, "get_im_features", wraps=predictor.get_im_features) as encode:
        predictor([IMAGE, IMAGE[:30]], bboxes=BOXES)
        assert encode.call_count == 2
        predictor.set_image(IMAGE)
        predictor(bboxes=BOXES)
        predictor(points=[3, 4])
        assert encode.call_count == 3


def test_inputs_changed_by_the_caller_are_encoded_again(model: SamModel) -> None:
    predictor = predictor_of(Predictor, model)
    pixels = predictor.preprocess([IMAGE])
    usual, _ = predictor.prompt_inference(pixels, points=[9, 9])
    blank, _ = predictor.prompt_inference(pixels * 0, points=[9, 9])
    assert not torch.equal(usual, blank)
    assert torch.equal(predictor.prompt_inference(pixels, points=[9, 9])[0], usual)
    assert torch.equal(predictor.prompt_inference(pixels.zero_(), points=[9, 9])[0], blank)


def test_an_image_is_encoded_by_hand(model: SamModel) -> None:
    predictor = predictor_of(Predictor, model)
    expected = predictor.prompt_inference(IMAGE, bboxes=BOXES, multimask_output=True)
    predictor.setup_source(IMAGE)
    (predictor.batch,) = predictor.dataset
    paths, images, labels = predictor.batch
    assert paths == ["image0.jpg"] and labels == ["image 1/1 image0.jpg: "]
    pixels = predictor.preprocess(images)
    predictor.features = predictor.get_im_features(pixels)
    for got, wanted in zip(predictor.inference(pixels, bboxes=BOXES, multimask_output=True), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


def test_other_methods_of_a_subclass_are_used(model: SamModel, tmp_path: Path) -> None:
    calls: list[Any] = []

    class Own(Predictor):
        def get_model(self) -> Any:
            calls.append("model")
            return model

        def run_callbacks(self, event: str) -> None:
            calls.append(event.removeprefix("on_predict_"))
            super().run_callbacks(event)

        def stream_inference(self, *args: Any, **kwargs: Any) -> Iterator[Results]:
            for result in super().stream_inference(*args, **kwargs):
                calls.append("result")
                yield result

        def write_results(self, i: int, p: Path, im: Any, s: list[str]) -> str:
            calls.append((i, p.name, s))
            return super().write_results(i, p, im, s)

    predictor = Own(overrides={**QUIET, "save": True, "project": str(tmp_path)})
    predictor(IMAGE, bboxes=BOXES)
    line = (0, "image0.jpg", ["image 1/1 image0.jpg: "])
    assert calls == ["model", "start", "batch_start", "postprocess_end", line, "batch_end", "result", "end"]
    assert predictor.plotted_img.shape == IMAGE.shape and len(list(tmp_path.rglob("*.jpg"))) == 1


@pytest.mark.parametrize("prompts", [{"bboxes": BOXES}, FEW])
def test_masks_are_thresholded_where_the_model_says(prompts: dict[str, Any]) -> None:
    model = small_model()
    predictor = predictor_of(Predictor, model, min_mask_region_area=0)
    usual = predictor(IMAGE, **prompts)[0]
    model.mask_threshold = 2.0
    strict = predictor(IMAGE, **prompts)[0]
    assert strict.masks.area.sum() < usual.masks.area.sum()
    if "bboxes" in prompts:
        logits, scores = predictor.prompt_inference(IMAGE, **prompts)
        (result,) = predictor.postprocess((logits, scores), None, [IMAGE])
        assert result.masks.rle == strict.masks.rle
        model.mask_threshold = 0.0
        (shifted,) = predictor.postprocess((logits - 2, scores), None, [IMAGE])
        assert shifted.masks.rle == strict.masks.rle


def test_files_are_written_to_a_folder_that_is_assigned(
    model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = predictor_of(Predictor, model, save_txt=True)
    for name in ("first", "second"):
        predictor.save_dir = tmp_path / name
        assert predictor(IMAGE, bboxes=BOXES)[0].save_dir == str(tmp_path / name)
        assert [path.name for path in (tmp_path / name).rglob("*.txt")] == ["image0.txt"]
    predictor.save_dir = None
    predictor(IMAGE, bboxes=BOXES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "runs", "second"]


@pytest.mark.parametrize("look_first", [False, True])
def test_masks_that_a_callback_edits_are_saved(model: SamModel, tmp_path: Path, look_first: bool) -> None:
    def erase(running: Any) -> None:
        masks = running.results[0].masks
        assert not look_first or len(masks.xy[0]) + masks.area[0] > 0
        masks.data[0] = False
        masks.data[1].fill_(True)

    predictor = predictor_of(Predictor, model, save_txt=True)
    predictor.save_dir = tmp_path
    predictor.add_callback("on_predict_postprocess_end", erase)
    (result,) = predictor(IMAGE, bboxes=BOXES)
    assert result.masks.area.tolist()[:2] == [0, 60 * 90] and result.masks.boxes[1].tolist() == [0, 0, 89, 59]
    assert len(result.masks.xy[0]) == 0 and len(result.masks.rle) == 3
    assert not result[:1].masks.data.any() and result.numpy().masks.data[1].all()
    assert pickle.loads(pickle.dumps(result)).masks.area.tolist() == result.masks.area.tolist()
    lines = (tmp_path / "labels" / "image0.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_the_networks_may_be_called_directly(model: SamModel) -> None:
    class Own(Predictor):
        def inference(self, im: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            assert not torch.is_grad_enabled() and self.model is not None
            sized = self.model.at_image_size(128)
            click = torch.tensor([[[64.0, 32.0]]]), torch.tensor([[1]])
            sparse, dense = sized.prompt_encoder(points=click, boxes=None, masks=None)
            masks, scores = sized.mask_decoder(
                image_embeddings=sized.image_encoder(im),
                image_pe=sized.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            return masks.flatten(0, 1), scores.flatten(0, 1)

    (result,) = predictor_of(Own, model)(IMAGE, points=[1, 2])
    (expected,) = predictor_of(Predictor, model)(IMAGE, points=[64 * 90 / 128, 32 * 90 / 128])
    assert (result.masks.data != expected.masks.data).float().mean() < 0.01
    assert 0 < expected.masks.area[0] < 60 * 90


@pytest.mark.parametrize("factor", [2, 4])
def test_logits_may_have_another_size(model: SamModel, factor: int) -> None:
    class Larger(Predictor):
        def prompt_inference(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            logits, scores = super().prompt_inference(*args, **kwargs)
            return torch.nn.functional.interpolate(logits[None], scale_factor=factor, mode="bilinear")[0], scores

    (result,) = predictor_of(Larger, model)(IMAGE, bboxes=BOXES)
    (expected,) = predictor_of(Predictor, model)(IMAGE, bboxes=BOXES)
    assert (result.masks.data != expected.masks.data).float().mean() < 0.02


def test_masks_may_have_the_size_of_the_input(model: SamModel) -> None:
    class Canvas(Predictor):
        def generate(self, im: Any = None, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
            masks = torch.zeros(1, *im.shape[2:], dtype=torch.bool)
            masks[:, 32:64, 64:] = True
            return masks, torch.tensor([0.9]), torch.tensor([[64.0, 32.0, 128.0, 64.0]])

    (result,) = predictor_of(Canvas, model)(np.zeros((128, 256, 3), np.uint8))
    assert result.boxes.xyxy.tolist() == [[128, 64, 256, 128]]
    assert result.masks.data[0, 64:, 128:].all() and not result.masks.data[0, :63].any()
    (same,) = predictor_of(Canvas, model)(np.zeros((128, 128, 3), np.uint8))
    assert same.masks.area.tolist() == [32 * 64]


def test_a_source_that_a_subclass_opens_is_used(model: SamModel) -> None:
    class Own(Predictor):
        def setup_source(self, source: Any, config: Any = None) -> None:  # type: ignore[override]
            super().setup_source([source, source])

    assert len(predictor_of(Own, model)(IMAGE, bboxes=BOXES)) == 2


def test_images_that_a_callback_puts_into_the_batch_are_used(model: SamModel) -> None:
    def flip(running: Any) -> None:
        running.batch[1][0] = running.batch[1][0][:, ::-1]

    predictor, plain = predictor_of(Predictor, model), predictor_of(Predictor, model)
    predictor.add_callback("on_predict_batch_start", flip)
    for batch in (1, 2):
        flipped = predictor([IMAGE, IMAGE], bboxes=BOXES, batch=batch)
        assert masks_of(flipped) == masks_of(plain([IMAGE[:, ::-1]] * 2, bboxes=BOXES))
        assert np.array_equal(flipped[0].orig_img, IMAGE[:, ::-1])


def test_a_callback_sets_prompts_for_the_next_image(model: SamModel) -> None:
    predictor, plain = predictor_of(Predictor, model), predictor_of(Predictor, model)
    predictor.add_callback("on_predict_start", lambda running: running.prompts.update(bboxes=BOXES[1:]))
    results = predictor([IMAGE, IMAGE], bboxes=BOXES[0])
    expected = plain(IMAGE, bboxes=BOXES[1:]) + plain(IMAGE, bboxes=BOXES[0])
    assert masks_of(results) == masks_of(expected) and predictor.prompts == {}


def test_errors_say_what_a_step_must_return(model: SamModel) -> None:
    def nothing(*args: Any) -> Any: ...

    for step, returned, message in (
        ("postprocess", nothing, "postprocess must return a list of Results, one per image, not NoneType"),
        ("postprocess", lambda *args: [], "postprocess returned 0 results for 1 images"),
        ("preprocess", nothing, "preprocess must return the model's input, a tensor, not NoneType"),
    ):
        predictor = predictor_of(FirstOnly, model)
        setattr(predictor, step, returned)
        with pytest.raises((TypeError, ValueError), match=message):
            predictor(IMAGE, bboxes=BOXES)


def test_images_are_counted_anew_in_every_call(model: SamModel) -> None:
    predictor, counts = predictor_of(Predictor, model), []

    def count(running: Any) -> None:
        counts.append(running.seen)
        if len(counts) == 1:
            running(IMAGE, bboxes=BOXES)
            counts.append(running.seen)

    predictor.add_callback("on_predict_batch_end", count)
    for _ in range(2):
        predictor([IMAGE, IMAGE], bboxes=BOXES)
    assert counts == [1, 1, 1, 2, 1, 2]
