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
from ..prompts import parse_texts
from ._transformers import as_picture, load, weights_digest
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

        chosen = select_device(device)
        model = DEFAULT_MODEL if model is None else model
        if isinstance(model, (str, os.PathLike)):
            purpose, kind = "finding objects by texts", "AutoModelForZeroShotObjectDetection"
            model, processor = load(model, processor, purpose, kind, "AutoProcessor")
        self.kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        if self.kind not in _CONF:
            raise ValueError(
                f"a {self.kind} model doesn't take texts, or is not supported; supported: {', '.join(_CONF)}"
            )
        if processor is None:
            raise ValueError("a loaded model needs its processor too: give processor=")
        self.model, self.processor = model.eval().to(chosen), processor
        self.conf = _CONF[self.kind] if conf is None else float(conf)
        self.iou = _IOU if iou is None else float(iou)

    @property
    def device(self) -> torch.device:
        """Device that the model is on."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def find(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Detections:
        """Return what the texts describe in one image, (H, W, 3) uint8 BGR, best first; class i is text i."""
        texts = parse_texts(list(texts))
        if not texts:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), {})
        height, width = image.shape[:2]
        none = torch.zeros(0, 4, dtype=torch.float32, device="cpu")
        boxes, scores = [none], [none.new_zeros(0, len(texts))]
        for corners, part in self._owl(image, texts) if self.kind.startswith("owl") else self._dino(image, texts):
            boxes.append(corners.float().cpu())
            scores.append(part.float().cpu())
        best, class_ids = torch.cat(scores).max(1)
        ends = torch.tensor([width, height, width, height], dtype=torch.float32, device="cpu")
        found = torch.cat(boxes).clamp(min=0).minimum(ends)
        rows = (best > self.conf).nonzero()[:, 0]
        rows = rows[ops.batched_nms(found[rows], best[rows], class_ids[rows], self.iou)]
        return Detections(found[rows].numpy(), best[rows].numpy(), class_ids[rows].numpy(), dict(enumerate(texts)))

    def _owl(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield once: boxes (Q, 4) in pixels and scores (Q, T). ValueError for a text longer than the model takes."""
        most = int(self.model.config.text_config.max_position_embeddings)
        for text in texts:
            length = len(self.processor.tokenizer(text)["input_ids"])  # including the start and end tokens
            if length > most:
                raise ValueError(
                    f"the text {text[:80]!r} has {length - 2} tokens, i.e. words and parts of words; "
                    f"accepted: up to {most - 2}"
                )
        inputs = self.processor(text=[list(texts)], images=as_picture(image), return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        height, width = image.shape[:2]
        # OWLv2 pads images to a square at the right and bottom; OWL-ViT stretches them to one.
        size = (max(height, width),) * 2 if self.kind == "owlv2" else (height, width)
        yield _corners(outputs.pred_boxes[0], size), outputs.logits[0].sigmoid()

    def _dino(self, image: NDArray[np.uint8], texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield boxes (Q, 4) in pixels and scores (Q, T), once for each sentence that the texts are put into."""
        picture = as_picture(image)
        tokenizer = self.processor.tokenizer
        stop = tokenizer.convert_tokens_to_ids(".")
        for chosen, text in self._sentences(texts):
            inputs = self.processor(images=picture, text=text, return_tensors="pt").to(self.device)
            outputs = self.model(**inputs)
            likely = outputs.logits[0].sigmoid()  # (Q, tokens)
            ids = inputs["input_ids"][0].tolist()
            scores = likely.new_zeros(len(likely), len(texts))
            # Each text ends with a full stop; the first token is the sentence's start token.
            ends = [place for place, token in enumerate(ids) if token == stop]
            for index, begin, end in zip(chosen, [1, *(place + 1 for place in ends)], ends, strict=False):
                scores[:, index] = likely[:, begin:end].max(1).values
            yield _corners(outputs.pred_boxes[0], image.shape[:2]), scores

    def _sentences(self, texts: Sequence[str]) -> Iterator[tuple[list[int], str]]:
        """Yield sentences of as many texts as the model can read, each with the indices of its texts."""
        most = int(getattr(self.model.config, "max_text_len", 256)) - 2
        chosen: list[int] = []
        sentence, used = "", 0
        for index, text in enumerate(texts):
            phrase = " ".join(text.lower().replace(".", " ").split()) + " . "
            length = len(self.processor.tokenizer(phrase, add_special_tokens=False)["input_ids"])
            if length < 2 or length > most:
                raise ValueError(
                    f"the text {text[:80]!r} has {length - 1} tokens, i.e. words and parts of words; "
                    f"accepted: 1 to {most - 1}"
                )
            if used + length > most:
                yield chosen, sentence.strip()
                chosen, sentence, used = [], "", 0
            chosen.append(index)
            sentence, used = sentence + phrase, used + length
        if chosen:
            yield chosen, sentence.strip()


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
        found = self.detector
        settings = f"conf={found.conf:g} iou={found.iou:g} texts={list(self.texts)}"
        return f"{found.kind} weights={weights_digest(found.model)} {settings}"

    def __call__(self, image: NDArray[np.uint8], /) -> Detections:
        """Return what the texts describe in one image, (H, W, 3) uint8 BGR."""
        return self.detector.find(image, self.texts)


def _corners(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Convert boxes (Q, 4) of centre, width and height as fractions to x1, y1, x2, y2 in pixels of (height, width)."""
    height, width = size[:2]
    centre, extent = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat([centre - extent / 2, centre + extent / 2], 1)
    return corners * torch.tensor([width, height] * 2, dtype=boxes.dtype, device=boxes.device)
