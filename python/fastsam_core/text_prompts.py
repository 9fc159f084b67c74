"""Text prompts: an open-vocabulary detector finds boxes, and SAM segments the object in each box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ._tensors import to_tensor
from .config import Config
from .encoded_image import EncodedImage
from .models.sam_model import SamModel
from .prompts import Prompts
from .results import Results
from .segment import segment_prompts
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .detect.open_vocabulary import OpenVocabularyDetector


class TextDetectorCache:
    """Cache for a predictor's open-vocabulary detector, which is created on first use and when the options change."""

    def __init__(self) -> None:
        self._cached: tuple[Any, OpenVocabularyDetector] | None = None

    def get(self, config: Config, device: torch.device) -> OpenVocabularyDetector:
        """Return the detector for the options `text_model` and `text_conf`, on `device`.

        A detector object given as `text_model` is returned as it is.
        """
        from .detect.open_vocabulary import OpenVocabularyDetector

        if isinstance(config.text_model, OpenVocabularyDetector):
            return config.text_model
        key = config.text_model, config.text_conf, device
        if self._cached is None or self._cached[0] != key:
            self._cached = key, OpenVocabularyDetector(config.text_model, conf=config.text_conf, device=device)
        return self._cached[1]


def segment_texts(
    model: SamModel,
    image: EncodedImage,
    texts: tuple[str, ...],
    detector: OpenVocabularyDetector,
    multimask_output: bool,
    config: Config,
    watch: Stopwatch,
) -> Results:
    """Segment the objects that the texts describe.

    Class i is text i, which is also its name. The confidence of a box is the detector's score; the predicted IoU is
    given separately, and masks whose predicted IoU is not above `conf` are dropped.
    """
    if image.bgr is None:
        raise ValueError("texts need the image itself, but only its embedding was loaded: call set_image")
    with watch.phase("inference", model.device):
        detections = detector.find(image.bgr, texts)
    box_prompts = Prompts(boxes=torch.from_numpy(detections.boxes))
    result = segment_prompts(model, image, box_prompts, multimask_output, config, watch)
    assert result.boxes is not None
    rows = to_tensor(result.boxes.data).clone()
    per_object = 3 if multimask_output else 1
    prompts = rows[:, 5].long().cpu().numpy() // per_object
    rows[:, 4] = torch.from_numpy(detections.scores[prompts]).to(rows)
    rows[:, 5] = torch.from_numpy(detections.class_ids[prompts].astype(np.float32)).to(rows)
    result.boxes, result.names = type(result.boxes)(rows, result.orig_shape), dict(enumerate(texts))
    return result
