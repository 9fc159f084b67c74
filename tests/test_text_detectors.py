"""Text prompts: open-vocabulary detectors, and SAM segmenting the boxes that they find."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import SAM, Predictor
from fastsam_core.detect import Detections, from_transformers, load_text_detector
from fastsam_core.detect.open_vocabulary import OpenVocabularyDetector, TextDetector
from small_model import QUIET, bgr_image, small_model

IMAGE = bgr_image(48, 64)
TEXTS = ["a dog", "Red Car."]


class Batch(dict):  # type: ignore[type-arg]
    """Stand-in for the BatchEncoding that processors of transformers return."""

    def to(self, device: Any) -> Batch:
        return self


class Tokenizer:
    """Tokenizer with one token per word or full stop, and a vocabulary that grows."""

    def __init__(self) -> None:
        self.words = {"[CLS]": 101, "[SEP]": 102, ".": 1012}

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.words.setdefault(token, len(self.words) + 2000)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [self.convert_tokens_to_ids(word) for word in text.split()]
        return {"input_ids": [101, *ids, 102] if add_special_tokens else ids}


class DinoProcessor:
    def __init__(self) -> None:
        self.tokenizer = Tokenizer()
        self.texts: list[str] = []

    def __call__(self, images: Any, text: str, return_tensors: str) -> Batch:
        assert images.mode == "RGB" and images.size == (64, 48) and return_tensors == "pt"
        self.texts.append(text)
        return Batch(input_ids=torch.tensor([self.tokenizer(text)["input_ids"]]))


class StandIn(torch.nn.Module):
    """Grounding DINO or OWL model with fixed boxes. Column i of its logits is token i of the sentence, or text i."""

    def __init__(self, kind: str, most: int = 256) -> None:
        super().__init__()
        reader = SimpleNamespace(max_position_embeddings=16)
        self.config = SimpleNamespace(model_type=kind, max_text_len=most, text_config=reader)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> SimpleNamespace:
        boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.25, 0.5, 0.52, 1.0], [0.75, 0.5, 0.25, 0.5]]])
        count = 2 if input_ids is None else input_ids.shape[1]
        logits = torch.full((1, 3, count), -9.0)
        if input_ids is None:
            logits[0, :2, 0], logits[0, 2, 1] = torch.tensor([2.0, 1.0]), 0.5
        else:  # [CLS] a dog . red car . [SEP]: two boxes for "dog", one for "red"
            logits[0, :2, 2] = torch.tensor([2.0, 1.0])
            if count > 5:
                logits[0, 2, 4] = 0.5
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


class OwlProcessor:
    tokenizer = Tokenizer()

    def __call__(self, text: list[list[str]], images: Any, return_tensors: str) -> Batch:
        assert text == [["a dog", "Red Car."]] and images.size == (64, 48)
        return Batch(pixel_values=torch.zeros(1, 3, 8, 8))


owl_processor = OwlProcessor()


def check(found: Detections, height: float = 48.0) -> None:
    """Check the detections of StandIn, whose second box NMS drops because it overlaps the first."""
    assert found.names == {0: "a dog", 1: "Red Car."} and found.class_ids.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, torch.tensor([2.0, 0.5]).sigmoid().numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [0, 0, 32, min(height, 48)])
    np.testing.assert_allclose(found.boxes[1], [40, height / 4, 56, min(48, height * 0.75)])


def test_grounding_dino_boxes_scores_and_classes() -> None:
    processor = DinoProcessor()
    found = from_transformers(StandIn("grounding-dino"), processor, texts=TEXTS, device="cpu")(IMAGE)
    check(found)
    assert processor.texts == ["a dog . red car ."]


def test_texts_beyond_the_length_limit_are_split_over_several_sentences() -> None:
    processor = DinoProcessor()
    model = StandIn("grounding-dino", most=7)
    found = from_transformers(model, processor, texts=["a dog", "a red cat", "one bird"], device="cpu")(IMAGE)
    assert processor.texts == ["a dog .", "a red cat .", "one bird ."]
    assert set(found.class_ids.tolist()) <= {0, 1, 2} and found.names[2] == "one bird"
    processor.texts.clear()
    fitting = ["a red cat", "a dog", "bird", "a very red cat"]  # the last two sentences have just the greatest length
    from_transformers(model, processor, texts=fitting, device="cpu")(IMAGE)
    assert processor.texts == ["a red cat .", "a dog . bird .", "a very red cat ."]
    with pytest.raises(ValueError, match=r"has 7 tokens, i\.e\. words and parts of words; accepted: 1 to 4"):
        from_transformers(model, processor, texts=["a b c d e f g"], device="cpu")(IMAGE)
    with pytest.raises(ValueError, match="parts of words"):
        from_transformers(model, processor, texts=["..."], device="cpu")(IMAGE)


@pytest.mark.parametrize(("kind", "height"), [("owlv2", 64.0), ("owlvit", 48.0)])
def test_owl_boxes_scores_and_classes(kind: str, height: float) -> None:
    """OWLv2 pads images to a square, so its boxes are fractions of the longer side."""
    check(from_transformers(StandIn(kind), owl_processor, texts=TEXTS, device="cpu")(IMAGE), height)


def test_detector_options_filter_boxes() -> None:
    def count(**options: Any) -> int:
        return len(
            from_transformers(StandIn("owlv2"), owl_processor, texts=TEXTS, device="cpu", **options)(IMAGE).boxes
        )

    assert count() == 2 and count(conf=0.7) == 1 and count(conf=0.99) == 0
    assert count(iou=0.99) == 3 and count(max_det=1) == 1 and count(classes=[1]) == 1


@pytest.mark.parametrize(("kind", "processor"), [("owlv2", owl_processor), ("grounding-dino", DinoProcessor())])
def test_scores_that_are_nan_are_refused(kind: str, processor: Any) -> None:
    class Damaged(StandIn):
        def forward(self, *arguments: Any, **inputs: Any) -> SimpleNamespace:
            outputs = super().forward(*arguments, **inputs)
            outputs.logits *= torch.nan
            return outputs

    with pytest.raises(ValueError, match=f"the {kind} model gives scores that are NaN"):
        from_transformers(Damaged(kind), processor, texts=TEXTS, device="cpu")(IMAGE)


def test_empty_or_invalid_texts() -> None:
    detector = OpenVocabularyDetector(StandIn("owlv2"), owl_processor, device="cpu")
    nothing = detector.find(IMAGE, [])
    assert nothing.boxes.shape == (0, 4) and not any(map(len, nothing))
    for texts, error in (([], ValueError), (None, ValueError), ([""], ValueError), (3, TypeError), ([1], TypeError)):
        with pytest.raises(error, match="texts"):
            TextDetector(detector, texts)


def test_fingerprint_depends_on_texts_weights_and_options() -> None:
    def fingerprint(texts: Any, weight: float = 1.0, **options: Any) -> str:
        model = StandIn("owlv2")
        torch.nn.init.constant_(model.weight, weight)
        return from_transformers(model, owl_processor, texts=texts, device="cpu", **options).fingerprint

    assert fingerprint("a dog") == fingerprint(["a dog"])
    assert len({fingerprint("a"), fingerprint("b"), fingerprint("a", 2.0), fingerprint("a", conf=0.5)}) == 4


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"conf": "high"}, TypeError, "conf must be a number, not 'high'"),
        ({"conf": 25}, ValueError, "conf must be a finite number from 0 to 1, not 25"),
        ({"iou": -0.1}, ValueError, "iou must be a finite number from 0 to 1, not -0.1"),
    ],
)
def test_thresholds_are_checked_before_the_model_is_loaded(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        OpenVocabularyDetector("no/such model", **options)


def test_unsupported_models_and_processors_are_refused() -> None:
    with pytest.raises(ValueError, match="a bert model doesn't take texts"):
        OpenVocabularyDetector(StandIn("bert"), owl_processor)
    with pytest.raises(ValueError, match="needs its processor"):
        OpenVocabularyDetector(StandIn("owlv2"))
    with pytest.raises(ValueError, match="has no post_process_object_detection"):
        from_transformers(StandIn("owlv2"), owl_processor)


def test_missing_package_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *args: Any) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"finding objects by texts needs .*pip install 'fastsam_core\[text\]'"):
        load_text_detector("a dog", device="cpu")


# --- SAM


class Finder(OpenVocabularyDetector):
    """Detector that finds two boxes for text 1 and one for text 0, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def find(self, image: np.ndarray, texts: Any) -> Detections:
        self.calls += 1
        assert image.shape == (48, 64, 3)
        boxes = np.array([[4, 6, 40, 30], [20, 10, 60, 40], [0, 0, 20, 20]], np.float32)
        chosen = slice(0, 3 if len(texts) > 1 else 0)
        scores, class_ids = np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 0, 1])
        return Detections(boxes[chosen], scores[chosen], class_ids[chosen], dict(enumerate(texts)))


def test_sam_segments_boxes_found_by_texts() -> None:
    finder, sam = Finder(), SAM(small_model())
    options = {key: value for key, value in QUIET.items() if key != "save"}
    (result,) = sam(IMAGE, texts=TEXTS, text_model=finder, **options)
    assert result.names == {0: "a dog", 1: "Red Car."} and result.boxes.cls.tolist() == [1, 0, 1]
    assert result.boxes.conf.tolist() == pytest.approx([0.9, 0.8, 0.7])
    boxes = [[4, 6, 40, 30], [20, 10, 60, 40], [0, 0, 20, 20]]
    (direct,) = sam(IMAGE, bboxes=boxes, **options)
    assert result.masks.rle == direct.masks.rle
    torch.testing.assert_close(result.predicted_iou, direct.predicted_iou)
    assert result.verbose() == "1 a dog, 2 Red Car.s, "
    (three,) = sam(IMAGE, texts=TEXTS, text_model=finder, multimask_output=True, **options)
    assert three.boxes.cls.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    (nothing,) = sam(IMAGE, texts="a dog", text_model=finder, **options)
    assert len(nothing) == 0 and nothing.masks is None and finder.calls == 3


def test_empty_list_of_texts_loads_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVocabularyDetector, "__init__", lambda *args, **kwargs: pytest.fail("loaded"))
    options = {key: value for key, value in QUIET.items() if key != "save"}
    (result,) = SAM(small_model())(IMAGE, texts=[], **options)
    assert len(result) == 0 and result.masks is None


def test_detector_is_loaded_again_only_for_other_options(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(
        OpenVocabularyDetector, "__init__", lambda self, *args, **options: loaded.append(options["conf"])
    )
    monkeypatch.setattr(OpenVocabularyDetector, "find", lambda self, image, texts: Finder().find(image, texts))
    predictor = Predictor(overrides={"model": small_model(), "text_model": "a folder", **QUIET})
    for text_conf in (None, None, 0.5, 0.5, None):
        assert len(predictor(IMAGE, texts=TEXTS, text_conf=text_conf)[0]) == 3
    assert loaded == [None, 0.5, None]


def test_conf_removes_masks_with_their_texts() -> None:
    sam = SAM(small_model())
    options = {key: value for key, value in QUIET.items() if key not in ("save", "conf")}
    (everything,) = sam(IMAGE, texts=TEXTS, text_model=Finder(), conf=-1e9, **options)
    order = everything.predicted_iou.argsort()
    (best,) = sam(IMAGE, texts=TEXTS, text_model=Finder(), conf=float(everything.predicted_iou[order[1]]), **options)
    kept = int(order[2])
    assert best.boxes.cls.tolist() == [everything.boxes.cls.tolist()[kept]]
    assert best.boxes.conf.tolist() == [everything.boxes.conf.tolist()[kept]]


def test_image_is_encoded_once_for_several_texts() -> None:
    model = small_model()
    predictor = Predictor(overrides={"model": model, "text_model": Finder(), **QUIET})
    predictor.set_image(IMAGE)
    assert len(predictor(texts=TEXTS)[0]) == len(predictor(texts=TEXTS)[0]) == 3
    assert model.counts["encoded"] == 1  # type: ignore[operator, index]


def test_texts_cannot_be_combined_with_other_prompts() -> None:
    sam = SAM(small_model())
    with pytest.raises(ValueError, match="give them alone, without bboxes"):
        sam(IMAGE, texts=TEXTS, bboxes=[1, 2, 3, 4], text_model=Finder())
    with pytest.raises(TypeError, match="texts must be"):
        sam(IMAGE, texts=7, text_model=Finder())
    with pytest.raises(ValueError, match="must not be empty"):
        sam(IMAGE, texts=[" "], text_model=Finder())
