"""Cases of `bench.gpu` for whole models: the encoder, transformers' SamModel, and segment everything."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch

from fastsam_core import SAM, rle
from fastsam_core.models import registry
from fastsam_core.models.sam_model import SamModel

from .gpu_cases import require_package
from .gpu_harness import Case, Context, Results, Row, Skipped, Workload, attempt, synchronize
from .photos import photo
from .recipe import checkpoint, recipe_model

# Multiply-adds for an input of 1024 x 1024, including the padding of windows that exceed the edge.
ENCODER_MACS = {"sam_b": 486e9, "sam_h": 2.98e12}
OPTIONS: dict[str, Any] = {"conf": -1e9, "conf_thres": -0.17, "verbose": False}  # see bench_everything.py
UNFILTERED: dict[str, Any] = {"conf_thres": -1e9, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


def recipe_model_on_device(context: Context) -> SamModel:
    return recipe_model("sam_nano" if context.tiny else "sam_b").to(context.device)


def make_own_encoder(name: str, capture: bool = True) -> Any:
    """Return the maker of an encoder case.

    ViT-B has the recipe's weights. ViT-H, whose outputs aren't compared with a peer's, has its random initial weights.
    Under FASTSAM_CUDA_GRAPHS=1, use capture=False to measure calls that replay the package's own CUDA graph: a graph of
    the harness would capture the encoder's kernel launches instead.
    """

    def make(context: Context) -> Workload:
        if name == "sam_b" or context.tiny:
            model = recipe_model_on_device(context)
        else:
            with context.device:
                model = registry.build(name).eval()
        inputs = [(context.randn(1, 3, model.image_size, model.image_size, seed=i),) for i in range(2)]
        flops = 0.0 if context.tiny else 2 * ENCODER_MACS[name]
        return Workload(lambda images: model.encode_image(images, context.dtype), inputs, flops, capture=capture)

    return make


def transformers_peer(context: Context) -> Any:
    """Return transformers' SamModel with the same weights, cast to the context's dtype."""
    require_package("transformers")
    if context.tiny:
        raise Skipped("transformers' ViT-B is left out of the harness's own test")
    from .peers.transformers_sam import transformers_model

    return transformers_model(recipe_model("sam_b")).to(context.device, context.dtype)


def make_peer_encoder(compiled: bool) -> Any:
    def make(context: Context) -> Workload:
        peer = transformers_peer(context)
        call = torch.compile(peer.get_image_embeddings) if compiled else peer.get_image_embeddings
        inputs = [(context.randn(1, 3, 1024, 1024, seed=i),) for i in range(2)]
        return Workload(call, inputs, 2 * ENCODER_MACS["sam_b"], capture=not compiled)

    return make


def decoder_peer(context: Context) -> Workload:
    peer, batch = transformers_peer(context), 64
    embeddings = context.randn(1, 256, 64, 64)
    points = torch.rand(1, batch, 1, 2, device=context.device) * 1024
    labels = torch.ones(1, batch, 1, dtype=torch.int64, device=context.device)

    def run(points: Any) -> Any:
        return peer(image_embeddings=embeddings, input_points=points, input_labels=labels, multimask_output=True)

    note = "one of 16 batches of 64 timed"
    return Workload(run, [(points.to(context.dtype),)], fraction=batch / 1024, note=note, capture=False)


ENCODER = [
    Case("encoder", "ours, ViT-B", make_own_encoder("sam_b")),
    Case("encoder", "ours, ViT-H", make_own_encoder("sam_h")),
    Case("encoder", "transformers' SamModel, eager", make_peer_encoder(False)),
    Case("encoder", "transformers' decoder, eager, 1,024 prompts", decoder_peer),
    Case("encoder", "transformers' SamModel, compiled", make_peer_encoder(True)),
]


# These run in a process of their own, under FASTSAM_CUDA_GRAPHS=1.
GRAPHS = [Case("encoder", "ours, ViT-B, FASTSAM_CUDA_GRAPHS=1", make_own_encoder("sam_b", capture=False))]


def everything(context: Context, results: Results) -> None:
    """Measure segment everything from photo to RLE, in the context's dtype and in float32, and match their masks.

    sam_b has the recipe's weights, whose masks are too noisy to pass the stability filter. So the time is spent on
    decoding, and on measuring masks that pass the IoU threshold. The bundled sam_nano has real weights, and its masks
    pass through the whole pipeline.
    """
    dtype_name = str(context.dtype).removeprefix("torch.")
    name = "sam_nano" if context.tiny else "sam_b"

    def run(row: Row, weights: str, options: dict[str, Any], dtype: torch.dtype | None, batch: int | None) -> None:
        sam = SAM(weights)
        image = photo(*((90, 60) if context.tiny else (1800, 1200)))
        stride = context.size(32, 3)
        call_options = {
            **options,
            **(UNFILTERED if context.tiny else {}),
            "verbose": False,
            "points_stride": stride,
            **({} if batch is None else {"points_batch_size": batch}),
            "device": str(context.device),
        }
        if dtype is not None and context.device.type == "cuda":
            call_options["dtype"] = dtype
        if context.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(context.device)
        milliseconds = []
        for _ in range(context.size(6, 1)):
            start = time.perf_counter()
            records = sam(image, **call_options)[0].masks
            masks = [] if records is None else records.rle
            synchronize(context.device)
            milliseconds.append(1e3 * (time.perf_counter() - start))
        row.first_ms, row.ms = milliseconds[0], float(np.median(milliseconds[1:] or milliseconds))
        batch_note = "" if batch is None else f" in batches of {batch}"
        row.note = f"{len(masks)} masks, {stride**2:,} points{batch_note}"
        if context.device.type == "cuda":
            row.peak_mib = torch.cuda.max_memory_allocated(context.device) / 2**20

    recipe = str(checkpoint(name)), OPTIONS
    for title, call_options, dtype_label, dtype, batch in (
        (name, recipe, "float32", None, 64),
        (f"{name} as it comes", recipe, "float32", None, None),
        (name, recipe, dtype_name, context.dtype, 64),
        (name, recipe, dtype_name, context.dtype, 1024),
        ("sam_nano as it comes", ("sam_nano.pt", {}), dtype_name, context.dtype, None),
        ("sam_nano as it comes", ("sam_nano.pt", {}), "float32", None, None),
    ):
        row = Row("everything", f"{title}, photo to RLE, {dtype_label}" + (f", {batch} at once" if batch else ""), "ok")
        results.rows.append(attempt(row, partial(run, row, *call_options, dtype, batch), context))
    row = Row("everything", "masks matched with those of float32", "ok")
    results.rows.append(attempt(row, lambda: match_masks(row, context, name), context))


def match_masks(row: Row, context: Context, name: str) -> None:
    """Match the masks of float32 with those of the context's dtype by IoU.

    The masks come from a coarse grid and are unfiltered: with the recipe's weights they are too noisy for the filters.
    """
    sam, image = SAM(str(checkpoint(name))), photo(*((90, 60) if context.tiny else (1800, 1200)))
    masks_by_dtype = []
    for dtype in (torch.float32, context.dtype):
        call_options = {**OPTIONS, **UNFILTERED, "points_stride": context.size(6, 3), "device": str(context.device)}
        if context.device.type == "cuda":
            call_options["dtype"] = dtype
        records = sam(image, **call_options)[0].masks
        masks_by_dtype.append([] if records is None else records.rle)
    float32_masks, masks = masks_by_dtype
    if not float32_masks or not masks:
        raise Skipped(f"{len(float32_masks)} and {len(masks)} masks")
    best = np.asarray(rle.iou(masks, float32_masks, [0] * len(float32_masks))).max(0)
    row.note = f"mean IoU {best.mean():.4f}, {(best > 0.9).mean():.1%} above 0.9, of {len(float32_masks)} masks"
