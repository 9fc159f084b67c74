"""`SAM` with a predictor of the caller's, an overridden `predict`, and another module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fastsam_core import SAM, Predictor, Results, auto_annotate, tiles
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel
from predictor_examples import BOXES
from small_model import FEW, QUIET, bgr_image, small_weights

IMAGE = bgr_image(60, 90)
MANY = {**FEW, "iou": 1.0}  # segments everything, without removing duplicates


class FirstOnly(Predictor):
    """Keeps only the first mask of each image."""

    def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list[Results]:
        return [result[:1] for result in super().postprocess(preds, img, orig_imgs)]


def test_a_model_uses_a_predictor_of_the_callers(model: SamModel) -> None:
    class Renamed(SAM):
        @property
        def task_map(self) -> dict[str, dict[str, type[Predictor]]]:
            return {"segment": {"predictor": FirstOnly}}

    for sam, options in (
        (SAM(model), {"predictor": FirstOnly}),
        (SAM(model), {"predictor": FirstOnly(overrides={"model": model, **QUIET})}),
        (SAM(model), {"predictor": FirstOnly(overrides=QUIET)}),
        (Renamed(model), {}),
    ):
        assert len(sam(IMAGE, bboxes=BOXES, **QUIET, **options)[0]) == 1
        assert type(sam.predictor) is FirstOnly
        assert len(sam.predict(IMAGE, bboxes=BOXES, **QUIET)[0]) == 1  # and from now on
    sam = SAM(model)
    sam.predictor = FirstOnly(overrides={"model": model, **QUIET})
    assert len(sam(IMAGE, bboxes=BOXES, **QUIET)[0]) == 1


def test_a_call_goes_through_predict(model: SamModel) -> None:
    calls: list[Any] = []

    class Own(SAM):
        def predict(self, source: Any = None, *args: Any, **kwargs: Any) -> Any:
            calls.append("class")
            return super().predict(source, *args, **kwargs)

    sam = Own(model)
    assert len(sam(IMAGE, bboxes=BOXES, **QUIET)[0]) == 3
    predict = sam.predict
    sam.predict = lambda *args, **kwargs: calls.append("object") or predict(*args, **kwargs)  # type: ignore[method-assign]
    assert len(sam(IMAGE, bboxes=BOXES, **QUIET)[0]) == 3
    assert calls == ["class", "object", "class"]


def test_a_module_that_is_assigned_is_used(model: SamModel) -> None:
    sam, blank = SAM(model), registry.build("sam_nano")
    blank.load_state_dict({name: value * 0 for name, value in small_weights().items()})
    before = sam(IMAGE, bboxes=BOXES, **QUIET)[0].boxes.conf
    sam.model = blank
    after = sam(IMAGE, bboxes=BOXES, **QUIET)[0].boxes.conf
    assert before.any() and not after.any()


def test_a_predictor_may_call_another_model_while_it_is_created(model: SamModel) -> None:
    class Own(Predictor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.warm = SAM(model)(IMAGE, bboxes=BOXES, **QUIET)

    sam = SAM(model)
    sam(IMAGE, bboxes=BOXES, predictor=Own, **QUIET)
    assert len(sam.predictor.warm[0]) == 3


# --- where else models are used ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "photo.png"), IMAGE)
    return tmp_path


class Blank(Predictor):
    """Encodes an input of zeros, whatever the image."""

    def preprocess(self, im: Any) -> Any:
        return super().preprocess(im) * 0


def two_boxes(image: np.ndarray) -> Any:
    return [[4, 6, 40, 30], [20, 10, 60, 40]], [0.9, 0.8], [0, 1], {0: "cat", 1: "dog"}


@pytest.mark.parametrize("give", ["predictor", "model"])
def test_auto_annotate_uses_overridden_steps(model: SamModel, folder: Path, give: str) -> None:
    def annotate(kind: type[Predictor], name: str, detector: Any = two_boxes) -> list[str]:
        predictor = kind(overrides={"model": model, **QUIET, **MANY})
        sam = SAM(model)
        sam.overrides.update({**QUIET, **MANY})
        sam.predictor = kind(overrides=QUIET)
        auto_annotate(
            folder / "images", detector, predictor if give == "predictor" else sam, output_dir=folder / name, preview=0
        )
        return (folder / name / "photo.txt").read_text().splitlines()

    usual = annotate(Predictor, "usual")
    assert [line.split()[0] for line in usual] == ["0", "1"]
    assert annotate(FirstOnly, "first") == usual[:1]
    blank = annotate(Blank, "blank")
    assert len(blank) == 2 and blank != usual
    everything = annotate(Predictor, "everything", None)
    assert len(everything) > 1 and annotate(FirstOnly, "first of everything", None) == everything[:1]


def test_tiles_and_evaluation_say_that_they_use_the_model_alone(
    model: SamModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(FirstOnly): ...

    tiles.segment(IMAGE, Mine(overrides={"model": model, **QUIET}), tile=64, overlap=16, points_stride=2)
    assert "tiles are segmented without the methods of Mine" in caplog.text
    (folder / "masks").mkdir()
    cv2.imwrite(str(folder / "masks" / "photo.png"), np.tri(60, 90, dtype=np.uint8))
    sam = SAM(model)
    sam.predictor = Mine(overrides=QUIET)
    sam.val(folder, verbose=False, imgsz=128, measures=["click"], baselines=False)
    assert "the model is evaluated without the methods that Mine overrides" in caplog.text
