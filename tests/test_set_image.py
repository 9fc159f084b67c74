"""Predictor.set_image: one image, encoded once and prompted many times."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import Predictor, encoded_image
from fastsam_core.models.sam_model import SamModel
from fastsam_core.preprocess import preprocess
from image_examples import write_video
from predictor_examples import BOXES, HEIGHT, WIDTH, dense, predictor_with_image
from small_model import FEW, QUIET, bgr_image, small_model


def test_image_is_encoded_once_for_many_prompts(predictor: Predictor, model: Any) -> None:
    before = model.counts["encoded"]
    for _ in range(3):
        predictor(bboxes=[10, 10, 50, 50])
        predictor(points=[30, 20], labels=[1])
        predictor.prompt_inference(points=[30, 20])
        predictor(**FEW)
    assert model.counts["encoded"] == before


def test_features_are_the_embedding_of_the_image(predictor: Predictor, model: SamModel) -> None:
    features = predictor.features
    assert features is not None and features.shape == (1, 128, 8, 8) and features.dtype == torch.float32
    assert not features.is_inference() and not features.requires_grad
    expected = model.encode_image(preprocess(bgr_image(HEIGHT, WIDTH)[..., ::-1].copy(), 128)[0])
    assert torch.allclose(features, expected.detach(), atol=1e-5)


def test_every_image_type_gives_the_same_embedding(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    import cv2
    from PIL import Image

    file = tmp_path / "image.png"
    cv2.imwrite(str(file), image)
    rgb = np.ascontiguousarray(image[..., ::-1])
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


def test_set_image_copies_the_array(predictor: Predictor) -> None:
    mine = bgr_image(HEIGHT, WIDTH)
    predictor.set_image(mine)
    mine[:] = 0
    assert predictor(bboxes=BOXES[0])[0].orig_img.any()


@pytest.mark.parametrize(
    ("several", "message"),
    [
        ("list", "exactly one image is needed, not 2"),
        ("batch", "exactly one image is needed, not 2"),
        ("folder", "exactly one image is needed, not 2"),
        ("none", "empty list"),
        ("iterator of two", "exactly one image is needed: "),
        ("iterator of none", "exactly one image is needed: "),
        ("videos", "exactly one image is needed: "),
    ],
)
def test_set_image_takes_exactly_one_image(predictor: Predictor, tmp_path: Path, several: str, message: str) -> None:
    import cv2

    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), bgr_image(20, 30))
    (tmp_path / "films").mkdir()
    given: Any = {
        "list": [bgr_image(20, 30)] * 2,
        "batch": torch.rand(2, 3, 32, 32),
        "folder": tmp_path,
        "none": [],
        "iterator of two": iter([bgr_image(20, 30)] * 2),
        "iterator of none": iter([]),
        "videos": [write_video(tmp_path / "films" / "film.avi", [bgr_image(32, 48)])],
    }[several]
    before = predictor.features
    with pytest.raises(ValueError, match=message):
        predictor.set_image(given)
    assert predictor.features is before, "what was set before stays"


def test_set_image_refuses_missing_and_invalid_files(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        predictor.set_image(tmp_path / "missing.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        predictor.set_image(tmp_path / "bad.jpg")
    with pytest.raises(TypeError, match="imread"):
        predictor.set_image(None)


def test_prompting_without_an_image_is_refused(model: SamModel) -> None:
    predictor = Predictor(overrides={"model": model, **QUIET})
    for call in (predictor, predictor.prompt_inference):
        with pytest.raises(ValueError, match="call set_image first"):
            call(bboxes=[1, 2, 3, 4])
    predictor.set_image(bgr_image(20, 30))
    assert len(predictor(bboxes=[1, 2, 10, 10])[0]) == 1
    predictor.reset_image()
    assert predictor.features is None and predictor.im is None
    with pytest.raises(ValueError, match="call set_image first"):
        predictor(points=[1, 2])


def test_input_size_defaults_to_the_models_and_changing_it_encodes_again(model: Any, image: np.ndarray) -> None:
    model.set_image_size(512)
    predictor = Predictor(overrides={"model": model, **QUIET, "imgsz": None})
    predictor.set_image(image)
    assert predictor.imgsz == 512 and predictor.features.shape == (1, 128, 32, 32)
    before = model.counts["encoded"]
    predictor(bboxes=BOXES[0], imgsz=(256, 256))
    assert predictor.features.shape == (1, 128, 16, 16)
    assert predictor.prompt_inference(bboxes=BOXES[0])[0].shape == (1, 128, 128)
    assert model.counts["encoded"] == before + 2


def test_assigned_features_are_used(predictor: Predictor, model: Any) -> None:
    expected = dense(predictor(bboxes=BOXES)[0])
    features, before = predictor.features.clone(), model.counts["encoded"]
    predictor.set_image(bgr_image(HEIGHT, WIDTH)[::-1])
    assert (dense(predictor(bboxes=BOXES)[0]) != expected).any()
    predictor.features = features
    assert (dense(predictor(bboxes=BOXES)[0]) == expected).all()
    assert model.counts["encoded"] == before + 1
    with pytest.raises(ValueError, match="shape"):
        predictor.features = features[:, :, :4]


@torch.no_grad()
def test_changed_weights_recompute_features(image: np.ndarray) -> None:
    model: Any = small_model()
    predictor = predictor_with_image(model)
    pixels = predictor.preprocess(image)

    def found() -> list[torch.Tensor]:
        predict = predictor.prompt_inference
        return [*predict(bboxes=BOXES), *predict(pixels, bboxes=BOXES), predictor(bboxes=BOXES)[0].boxes.data]

    before, features = found(), predictor.features.clone()
    for change, encodes in (
        (lambda: model.mask_decoder.output_upscaling[0].bias.add_(1), 0),
        (lambda: model.prompt_encoder.no_mask_embed.weight.add_(1), 0),
        (lambda: model.image_encoder.neck[3].bias.add_(1), 2),  # the image that is set, and `pixels`
        (lambda: model.load_state_dict({name: 1.25 * value for name, value in model.state_dict().items()}), 2),
    ):
        change()
        encoded = model.counts["encoded"]
        after = found()
        assert model.counts["encoded"] == encoded + encodes
        fresh = predictor_with_image(model).prompt_inference(bboxes=BOXES)
        assert not torch.equal(after[0], before[0]) and torch.equal(after[0], fresh[0])
        assert torch.equal(after[0], after[2]) and torch.equal(after[1], fresh[1])
        before = after
    model.image_encoder.neck[3].bias.add_(1)
    predictor.set_image(image[::-1])
    assert not torch.equal(predictor.prompt_inference(pixels, bboxes=BOXES)[0], before[0])
    predictor.features = features  # features that a caller assigns are never recomputed
    model.image_encoder.neck[3].bias.add_(1)
    found()
    assert torch.equal(predictor.features, features)


@torch.no_grad()
def test_copied_predictor_encodes_again_only_after_a_change_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = small_model()
    del model.encode_image  # which would count for this model only
    predictor = predictor_with_image(model)
    encode, encoded = encoded_image.encode, list[int]()
    monkeypatch.setattr(encoded_image, "encode", lambda *arguments: encoded.append(1) or encode(*arguments))
    for change in (None, model.image_encoder.neck[3].bias):
        if change is not None:
            change.add_(1)
        copies = copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))
        expected = predictor_with_image(model).prompt_inference(bboxes=BOXES)[0]
        for other in copies:
            encoded.clear()
            assert torch.equal(other.prompt_inference(bboxes=BOXES)[0], expected)
            assert len(encoded) == (change is not None)


def test_returned_tensors_can_be_used_with_autograd(predictor: Predictor) -> None:
    low_res, scores = predictor.prompt_inference(bboxes=BOXES)
    result = predictor(bboxes=BOXES)[0]
    for tensor in (low_res, scores, result.boxes.data, result.predicted_iou):
        assert not tensor.is_inference() and not tensor.requires_grad
        (tensor * torch.ones(1, requires_grad=True)).sum().backward()
