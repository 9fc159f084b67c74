"""Tests of saved embeddings: the same masks without encoding, and refusal of other models' and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastsam_core import Predictor
from fastsam_core.embeddings import fingerprint
from fastsam_core.models.sam_model import SamModel
from small_model import FEW, QUIET, bgr_image, small_model

BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]


@pytest.fixture
def saved(predictor: Predictor, tmp_path: Path) -> Path:
    return predictor.save_features(tmp_path / "made" / "image.safetensors")


def fresh(model: SamModel, **options: Any) -> Predictor:
    return Predictor(overrides={"model": model, **QUIET, **options})


def rewrite(source: Path, target: Path, features: torch.Tensor | None = None, **metadata: str) -> Path:
    with safe_open(source, "pt") as file:
        known, tensor = dict(file.metadata()), file.get_tensor("features")
    save_file({"features": tensor if features is None else features}, target, {**known, **metadata})
    return target


def test_loaded_embedding_gives_the_same_masks_without_the_image(predictor: Predictor, saved: Path, model: Any) -> None:
    expected = predictor(bboxes=BOXES)[0]
    other, before = fresh(model), model.counts["encoded"]
    other.load_features(saved)
    result = other(bboxes=BOXES)[0]
    assert model.counts["encoded"] == before
    assert result.masks.rle == expected.masks.rle and torch.equal(result.boxes.data, expected.boxes.data)
    assert result.orig_shape == (60, 90) and not result.orig_img.any() and result.path == "image0.jpg"
    assert torch.equal(other.features, predictor.features)
    everything = other(**FEW)[0]
    assert everything.masks.rle == predictor(**FEW)[0].masks.rle


@pytest.mark.parametrize("way", ["set_image", "load_features"])
def test_click_finds_the_image_prepared_for_the_decoder(saved: Path, model: SamModel, way: str) -> None:
    predictor = fresh(model)
    getattr(predictor, way)(bgr_image(60, 90) if way == "set_image" else saved)
    image = predictor.current_image
    assert image is not None and image._prepared is not None
    prepared, decoder = image._prepared, image._prepared._image_decoder
    assert decoder is not None
    predictor(points=[30, 20], labels=[1])
    assert image._prepared is prepared and prepared._image_decoder is decoder


def test_calls_that_need_pixels_are_refused_without_the_image(saved: Path, model: SamModel) -> None:
    other = fresh(model)
    other.load_features(saved)
    assert other.im is None
    with pytest.raises(ValueError, match="set_image"):
        other(**FEW, crop_n_layers=1)
    with pytest.raises(ValueError, match="set_image"):
        other(bboxes=BOXES, imgsz=256)
    other.load_features(saved)
    again = other.save_features(saved.with_name("again.safetensors"))
    with safe_open(saved, "pt") as first, safe_open(again, "pt") as second:
        assert first.metadata() == second.metadata()
        assert torch.equal(first.get_tensor("features"), second.get_tensor("features"))


def test_saved_features_are_those_of_the_set_size(predictor: Predictor, saved: Path, model: SamModel) -> None:
    features = predictor.features
    predictor(bboxes=BOXES, imgsz=64)
    other = fresh(model)
    other.load_features(predictor.save_features(saved))
    assert torch.equal(other.features, features)


def test_embedding_of_another_image_is_refused(predictor: Predictor, saved: Path, model: Any) -> None:
    expected, other = predictor(bboxes=BOXES)[0], fresh(model)
    other.set_image(bgr_image(60, 90))
    other.load_features(saved)
    result = other(bboxes=BOXES)[0]
    assert result.masks.rle == expected.masks.rle and result.orig_img.any()
    changed = bgr_image(60, 90)
    changed[0, 0, 0] ^= 1
    other.set_image(changed)
    with pytest.raises(ValueError, match="another image"):
        other.load_features(saved)
    assert other(bboxes=BOXES)[0].orig_img[0, 0, 0] == changed[0, 0, 0], "what was set stays"


def test_embedding_of_another_model_or_size_is_refused(saved: Path, model: SamModel, tmp_path: Path) -> None:
    changed = small_model()
    with torch.no_grad():
        next(changed.image_encoder.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="other weights of sam_nano"):
        fresh(changed).load_features(saved)
    with pytest.raises(ValueError, match="the model 'sam_b'"):
        fresh(model).load_features(rewrite(saved, tmp_path / "b.safetensors", model="sam_b"))
    with pytest.raises(ValueError, match="set imgsz=128"):
        fresh(model, imgsz=256).load_features(saved)


def test_embedding_is_accepted_with_another_decoder(saved: Path) -> None:
    """An embedding depends only on the image encoder, so a model with a fine-tuned decoder can use it."""
    changed = small_model()
    with torch.no_grad():
        changed.mask_decoder.iou_token.weight += 1
    fresh(changed).load_features(saved)


def test_fingerprint_changes_with_weights_changed_in_place() -> None:
    model = small_model()
    first = fingerprint(model)
    assert fingerprint(model) == first == fingerprint(small_model())
    with torch.no_grad():
        list(model.image_encoder.parameters())[-1].add_(1)
    assert fingerprint(model) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pt"}, "not an embedding"),
        ({"version": "2"}, "version '2'"),
        ({"height": "-3"}, "height"),
        ({"width": "9" * 5000}, "width"),
        ({"image_size": "x"}, "image_size"),
        ({"features": torch.zeros(1, 128, 4, 4)}, "shape"),
        ({"features": torch.full((1, 128, 8, 8), float("nan"))}, "finite"),
        ({"features": torch.zeros(1, 128, 8, 8, dtype=torch.float16)}, "float32"),
    ],
)
def test_invalid_metadata_and_features_are_refused(
    saved: Path, model: SamModel, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fresh(model).load_features(rewrite(saved, tmp_path / "bad.safetensors", **change))


def test_missing_and_damaged_files_are_refused(saved: Path, model: SamModel, tmp_path: Path) -> None:
    other = fresh(model)
    with pytest.raises(FileNotFoundError):
        other.load_features(tmp_path / "missing.safetensors")
    for content in (b"", b"no tensors here", saved.read_bytes()[:-7], np.random.default_rng(0).bytes(500)):
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            other.load_features(bad)
    assert other.current_image is None


def test_saving_needs_an_image(model: SamModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set_image"):
        fresh(model).save_features(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
