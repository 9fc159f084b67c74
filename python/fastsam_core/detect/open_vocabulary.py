"""Detectors that take texts: Grounding DINO and OWL from transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from .. import option_parsers as parse
from ..prompts import parse_texts
from ._transformers import load_pretrained, to_model, to_pil_image, weights_digest
from .protocol import Detections

DEFAULT_MODEL = "IDEA-Research/grounding-dino-tiny"
# Default thresholds by kind of model, those they are usually run with: their scores aren't comparable.
_CONF = {"grounding-dino": 0.25, "mm-grounding-dino": 0.25, "owlv2": 0.2, "owlvit": 0.1}
_IOU = 0.7


class OpenVocabularyDetector:
    """A detector of what texts describe.

    model: the name or folder of a Grounding DINO, OWLv2 or OWL-ViT model, which transformers downloads, or such a model
    (`GroundingDinoForObjectDetection` and so on). processor: its processor; loaded with the model if not given.
    conf: keep boxes with a greater score; the default depends on the kind of model. iou: of two boxes for one text that
    overlap by more, drop the one with the lower score; default 0.7. device: "" is the GPU if there is one.

    ImportError without the package transformers; ValueError for a model of another kind; FileNotFoundError for one that
    does not exist and can't be downloaded.
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        conf: float | None = None,
        iou: float | None = None,
        device: Any = "",
    ) -> None:
        from ..device import select_device

        # Checked before a model is loaded.
        self.iou = parse.number(0, 1)("iou", _IOU if iou is None else iou)
        conf = None if conf is None else parse.number(0, 1)("conf", conf)
        torch_device = select_device(device)
        model = DEFAULT_MODEL if model is None else model
        if isinstance(model, (str, os.PathLike)):
            purpose, model_class = "finding objects by texts", "AutoModelForZeroShotObjectDetection"
            model, processor = load_pretrained(model, processor, purpose, model_class, "AutoProcessor")
        self.kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        if self.kind not in _CONF:
            raise ValueError(
                f"a {self.kind} model doesn't take texts, or is not supported; supported: {', '.join(_CONF)}"
            )
        if processor is None:
            raise ValueError("a loaded model needs its processor too: give processor=")
        self.model, self.processor = model.eval().to(torch_device), processor
        self.conf = _CONF[self.kind] if conf is None else conf

    @property
    def device(self) -> torch.device:
        """Device that the model is on."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def find(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Detections:
        """Return what the texts describe in one image, (H, W, 3) uint8 BGR, best first; class i is text i.

        ValueError for texts that are too long for the model, and if its scores are NaN.
        """
        texts = parse_texts(list(texts))
        if not texts:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), {})
        height, width = image.shape[:2]
        detect = self._detect_owl if self.kind.startswith("owl") else self._detect_grounding_dino
        boxes, scores = (
            torch.cat([part.float().cpu() for part in parts]) for parts in zip(*detect(image, texts), strict=True)
        )
        best_scores, class_ids = scores.max(1)
        if bool(best_scores.isnan().any()):
            raise ValueError(
                f"the {self.kind} model gives scores that are NaN: damaged weights, or too large for half precision"
            )
        limits = torch.tensor([width, height, width, height], dtype=torch.float32, device="cpu")
        clipped = boxes.clamp(min=0).minimum(limits)
        keep = (best_scores > self.conf).nonzero()[:, 0]
        keep = keep[ops.batched_nms(clipped[keep], best_scores[keep], class_ids[keep], self.iou)]
        return Detections(
            clipped[keep].numpy(), best_scores[keep].numpy(), class_ids[keep].numpy(), dict(enumerate(texts))
        )

    def _detect_owl(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield once: boxes (Q, 4) in pixels and scores (Q, T). ValueError for a text longer than the model takes."""
        max_tokens = int(self.model.config.text_config.max_position_embeddings)
        for text in texts:
            length = len(self.processor.tokenizer(text)["input_ids"])  # including the start and end tokens
            if length > max_tokens:
                raise ValueError(
                    f"the text {text[:80]!r} has {length - 2} tokens, i.e. words and parts of words; "
                    f"accepted: up to {max_tokens - 2}"
                )
        inputs = self.processor(text=[list(texts)], images=to_pil_image(image), return_tensors="pt")
        outputs = self.model(**to_model(inputs, self.model))
        height, width = image.shape[:2]
        # OWLv2 pads images to a square at the right and bottom; OWL-ViT stretches them to one.
        size = (max(height, width),) * 2 if self.kind == "owlv2" else (height, width)
        yield _to_corners(outputs.pred_boxes[0], size), outputs.logits[0].sigmoid()

    def _detect_grounding_dino(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield boxes (Q, 4) in pixels and scores (Q, T), once for each sentence that the texts are put into."""
        pil_image = to_pil_image(image)
        tokenizer = self.processor.tokenizer
        full_stop = tokenizer.convert_tokens_to_ids(".")
        for text_indices, text in self._group_into_sentences(texts):
            inputs = to_model(self.processor(images=pil_image, text=text, return_tensors="pt"), self.model)
            outputs = self.model(**inputs)
            token_scores = outputs.logits[0].sigmoid()  # (Q, tokens)
            ids = inputs["input_ids"][0].tolist()
            scores = token_scores.new_zeros(len(token_scores), len(texts))
            # Each text ends with a full stop; the first token is the sentence's start token.
            ends = [position for position, token in enumerate(ids) if token == full_stop]
            for index, begin, end in zip(text_indices, [1, *(position + 1 for position in ends)], ends, strict=False):
                scores[:, index] = token_scores[:, begin:end].max(1).values
            yield _to_corners(outputs.pred_boxes[0], image.shape[:2]), scores

    def _group_into_sentences(self, texts: Sequence[str]) -> Iterator[tuple[list[int], str]]:
        """Yield sentences of as many texts as the model can read, each with the indices of its texts."""
        max_tokens = int(getattr(self.model.config, "max_text_len", 256)) - 2
        text_indices: list[int] = []
        sentence, num_tokens = "", 0
        for index, text in enumerate(texts):
            phrase = " ".join(text.lower().replace(".", " ").split()) + " . "
            length = len(self.processor.tokenizer(phrase, add_special_tokens=False)["input_ids"])
            if length < 2 or length > max_tokens:
                raise ValueError(
                    f"the text {text[:80]!r} has {length - 1} tokens, i.e. words and parts of words; "
                    f"accepted: 1 to {max_tokens - 1}"
                )
            if num_tokens + length > max_tokens:
                yield text_indices, sentence.strip()
                text_indices, sentence, num_tokens = [], "", 0
            text_indices.append(index)
            sentence, num_tokens = sentence + phrase, num_tokens + length
        yield text_indices, sentence.strip()


class TextDetector:
    """A `Detector` made of an open-vocabulary detector and its texts."""

    def __init__(self, detector: OpenVocabularyDetector, texts: Any) -> None:
        self.detector = detector
        self.texts = parse_texts(texts)
        if not self.texts:
            raise ValueError("no texts: say what to look for, as in texts=['a dog']")

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the boxes may: kind of model, hash of its weights, thresholds, texts."""
        detector = self.detector
        settings = f"conf={detector.conf:g} iou={detector.iou:g} texts={list(self.texts)}"
        return f"{detector.kind} weights={weights_digest(detector.model)} {settings}"

    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        """Return what the texts describe in one image, (H, W, 3) uint8 BGR."""
        return self.detector.find(image, self.texts)


def _to_corners(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Convert boxes (Q, 4) of centre, width and height as fractions to x1, y1, x2, y2 in pixels of (height, width)."""
    height, width = size[:2]
    centre, box_size = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat([centre - box_size / 2, centre + box_size / 2], 1)
    return corners * torch.tensor([width, height] * 2, dtype=boxes.dtype, device=boxes.device)
