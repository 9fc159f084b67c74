"""Example arguments for every operation, for the tests that apply to all of them.

They are the same on every call. They are large enough that operations that use threads split the work, and small enough
for a call to take about ten milliseconds, because tests make thousands of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoder_arguments import arguments, arguments_in
from fastsam_core.ops import schema

Arguments = tuple[Any, ...]


def _boxes(n: int) -> Arguments:
    """Return (n, 4) boxes clustered around few centres, and (n,) scores."""
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 30, (n, 2)) * 60.0 + rng.normal(0, 6, (n, 2))
    boxes = np.concatenate([corner, corner + 20 + 40 * rng.random((n, 2))], 1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.random(n).astype(np.float32))


def _bytes(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8))


def _stripes(n: int, height: int, width: int) -> Tensor:
    """Return masks of slanted stripes, shifted from mask to mask, with about fifty runs per column."""
    mask, y, x = torch.arange(n)[:, None, None], torch.arange(height)[:, None], torch.arange(width)
    return (7 * mask + y + 3 * x) % 41 < 20


def _runs(n: int, pixels: int = 500 * 480, ends_of_each: int = 400) -> Arguments:
    """Return the run lengths of n masks, and their offsets (n + 1,)."""
    rng = np.random.default_rng(n)
    lists = []
    for _ in range(n):
        ends = np.sort(rng.choice(pixels, ends_of_each, replace=False))
        lists.append(np.diff(ends, prepend=0, append=pixels))
    offsets = np.cumsum([0, *(len(counts) for counts in lists)])
    return torch.from_numpy(np.concatenate(lists).astype(np.int64)), torch.from_numpy(offsets.astype(np.int64))


def _polygons(n: int) -> Arguments:
    """Return n stars of 600 vertices each: points (600 n, 2) and offsets (n + 1,)."""
    angle = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    radius = 60 + 30 * np.sin(7 * angle)
    one = np.stack([100 + radius * np.cos(angle), 90 + radius * np.sin(angle)], 1)
    points = np.concatenate([one + shift for shift in range(n)])
    return torch.from_numpy(points), torch.arange(n + 1) * len(angle)


def _text(n: int) -> Arguments:
    """Return compressed text of n masks of 300 runs of 5 pixels, its offsets (n + 1,), and the pixels of each mask."""
    first, rest = [53, 53, 53], [48] * 297  # "5"; from the fourth run on, "0": the difference to the run two before
    text = np.array((first + rest) * n, np.uint8)
    return torch.from_numpy(text), torch.arange(n + 1) * 300, torch.full((n,), 1500)


def _values(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).standard_normal(shape).astype(np.float32))


def _layer(rows: int, k: int, n: int) -> Arguments:
    return (
        *(_values(rows, k), _values(n, k), _values(n), "gelu"),
        *(_values(k), _values(k), 1e-6, _values(rows, n)),
    )


def _mlp(rows: int, k: int, hidden: int) -> Arguments:
    return (
        *(_values(rows, k), _values(k), _values(k), 1e-6),
        *(_values(hidden, k), _values(hidden), _values(k, hidden), _values(k)),
    )


def _mbconv(batch: int, side: int, channels: int, hidden: int) -> Arguments:
    return (
        *(_values(batch, side, side, channels), _values(hidden, channels), _values(hidden)),
        *(_values(hidden, 3, 3), _values(hidden), _values(channels, hidden), _values(channels)),
    )


def _axis(cells: int, size: int) -> Arguments:
    """Return the first cells (size,) and weights (size, 3) with which one axis is resampled from `cells` to `size`."""
    place = np.arange(size) * (cells - 3) / size
    share = (place % 1).astype(np.float32)
    weights = np.stack([0.5 - 0.5 * share, np.full(size, 0.5, np.float32), 0.5 * share], 1)
    return torch.from_numpy(place.astype(np.int64)), torch.from_numpy(weights)


def _factors() -> Arguments:
    """Return arguments of `decoder_mask_factors` that ask for all of 30 prompts."""
    final, first, second, _, *others = arguments("decoder_mask_factors", **{**_DECODER, "prompts": 30})
    return final, first, second, torch.arange(30), *others


_DECODER = {"heads": 2, "prompts": 5, "tokens": 6, "dim": 64, "grid": (20, 27)}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
WINDOW = torch.tensor([[-5, 10, 300, 400]])

EXAMPLES: dict[str, Callable[[], Arguments]] = {
    "add_norm_into": lambda: (_values(37, 768), _values(37, 768), _values(768), _values(768), 1e-6),
    "attention": lambda: (_values(2, 14, 11, 3 * 2 * 64), _values(13, 64), _values(13, 64), 2, 7, _values(3 * 2 * 64)),
    "windowed_attention": lambda: (_values(2, 14, 11, 2 * 3 * 32), _values(2, 49, 49), 7, _values(2 * 3 * 32)),
    "conv3x3": lambda: (_values(3, 40, 41, 16), _values(24, 16, 3, 3), _values(24), 1, True),
    "conv_stem": lambda: (_values(3, 3, 200, 190), _values(8, 3, 3, 3), _values(8), _values(16, 8, 3, 3), _values(16)),
    "depthwise3x3": lambda: (_values(3, 64, 65, 40), _values(40, 3, 3), _values(40), 1, True),
    "mbconv": lambda: (*_mbconv(3, 48, 16, 64), 1, True),
    **{name: partial(arguments, name, **_DECODER) for name in schema.SCHEMAS if name.startswith("decoder_")},
    "decoder_prompts": partial(arguments, "decoder_prompts", **{**_DECODER, "prompts": 20, "grid": (10, 25)}),
    "decoder_mask_factors": _factors,
    "linear": lambda: _layer(500, 96, 264),
    "linear_into": lambda: (torch.zeros(500, 264), *_layer(500, 96, 264)),
    "mlp": lambda: _mlp(700, 64, 288),
    "mlp_into": lambda: (torch.zeros(700, 64), *_mlp(700, 64, 288)),
    "mask_runs": lambda: (_values(6, 64, 64), *_axis(64, 200), *_axis(64, 300), 0.0, 1.0, 200, 300, 0, 0),
    "mask_remove_small_regions": lambda: (*_runs(60), 500, 480, 40.0),
    "nms": lambda: (*_boxes(3000), 0.5),
    "batched_nms": lambda: (*_boxes(6000), torch.arange(6000) % 4, 0.5),
    "preprocess_image": lambda: (_bytes(400, 700, 3), 146, 256, 256, MEAN, STD, True, False),
    "resize_image": lambda: (_bytes(400, 700, 3), 300, 400, False),
    "rle_area": lambda: _runs(40),
    "rle_combine": lambda: (*_runs(12, ends_of_each=9000), *_runs(12, ends_of_each=8000), 6),
    "rle_crop": lambda: (*_runs(12, ends_of_each=18_000), torch.full((12,), 500), WINDOW.expand(12, 4)),
    "rle_decode": lambda: (*_runs(4, 1024 * 1025), 1024, 1025, False),
    "rle_encode": lambda: (_stripes(4, 1024, 1025),),
    "rle_from_polygon": lambda: (*_polygons(28), 200, 210),
    "rle_from_string": lambda: _text(60),
    "rle_iou": lambda: (*_runs(40), *_runs(30), torch.arange(30) % 2 == 0),
    "rle_merge": lambda: (*_runs(10), False),
    "rle_to_bbox": lambda: (*_runs(40), torch.full((40,), 500)),
    "rle_to_string": lambda: _runs(40),
}

# Smaller arguments, for which an operation uses a single thread.
UNSPLIT_EXAMPLES: dict[str, Callable[[], Arguments]] = {
    "rle_decode": lambda: (*_runs(3, 300 * 201), 300, 201, False),
    "rle_encode": lambda: (_stripes(3, 300, 201),),
}

# For CUDA kernels on the emulator, which would take seconds for the arguments above.
_HALF_DECODER = {"heads": 8, "prompts": 2, "tokens": 7, "dim": 256, "grid": (5, 29)}  # nine full panels and one cell
EMULATED_EXAMPLES: dict[str, Callable[[], Arguments]] = {
    **{
        name: partial(arguments_in, torch.bfloat16, name, **_HALF_DECODER)
        for name in schema.SCHEMAS
        if name.startswith("decoder_")
    },
    "depthwise3x3": lambda: tuple(
        tensor.bfloat16() for tensor in (_values(2, 9, 7, 40), _values(40, 3, 3), _values(40))
    ),
    **UNSPLIT_EXAMPLES,
}

# Operations that have an example; test_determinism fails if one has none.
COVERED = [op for op in schema.SCHEMAS if op in EXAMPLES]


def example(op: str, sibling: str = "", *, split: bool = True) -> Arguments:
    """Return arguments for an operation, of a size that this sibling processes quickly.

    split: whether they must be large enough for several threads, if the operation uses threads.
    """
    smaller = EMULATED_EXAMPLES if sibling == "cuda[emulated]" else {} if split else UNSPLIT_EXAMPLES
    return smaller.get(op, EXAMPLES[op])()


def written(op: str) -> set[int]:
    """Return the positions of the arguments that an operation writes to."""
    signature = schema.SCHEMAS[op].split(") -> ")[0]
    return {i for i, argument in enumerate(signature.split(", ")) if "!" in argument}


def flat_bytes(result: Any) -> list[Any]:
    """Convert a result of nested tensors to lists that compare with ==: dtype, shape and bytes of each tensor."""
    if isinstance(result, Tensor):
        bits = result.detach().contiguous()
        bits = bits.view(torch.int16) if bits.dtype == torch.bfloat16 else bits  # NumPy has no bfloat16
        return [str(result.dtype), tuple(result.shape), bits.numpy().tobytes()]
    if isinstance(result, (tuple, list)):
        return [flat_bytes(part) for part in result]
    return [result]
