"""`SAM` with a predictor of the caller's, an overridden `predict`, and another module."""

from __future__ import annotations

from typing import Any

from fastsam_core import SAM, Predictor, Results
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel
from predictor_examples import BOXES
from small_model import QUIET, bgr_image, small_weights

IMAGE = bgr_image(60, 90)


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
