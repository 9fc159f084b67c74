"""Time per stage of segment everything, measured by patching the functions that its stages call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from fastsam_core import encoded_image, ops
from fastsam_core.models.sam_model import SamModel

STAGES = ("preprocess", "encode", "decode", "post-process", "NMS")


@contextmanager
def timed_stages() -> Iterator[dict[str, float]]:
    """Measure the seconds per stage of the code in the `with` block. "post-process" is the time in no other stage."""
    seconds = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] += time.perf_counter() - start

        return run

    decode_points = timed("decode", SamModel.decode_points)

    def decode(*args: Any, **kwargs: Any) -> Any:
        # The masks themselves are decoded later, when `logits` is called.
        iou, logits = decode_points(*args, **kwargs)
        return iou, timed("decode", logits)

    start = time.perf_counter()
    with (
        mock.patch.object(encoded_image, "model_input", timed("preprocess", encoded_image.model_input)),
        mock.patch.object(SamModel, "encode_image", timed("encode", SamModel.encode_image)),
        mock.patch.object(SamModel, "decode_points", decode),
        mock.patch.object(ops, "nms", timed("NMS", ops.nms)),
    ):
        yield seconds
    seconds["post-process"] = time.perf_counter() - start - sum(seconds.values())
