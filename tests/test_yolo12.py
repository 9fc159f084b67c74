"""What only YOLO12 has: published sizes, attention within areas, and stages with a factor per channel."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fastsam_core.detect.yolo.architecture import YOLO12, Architecture, BlockShape
from fastsam_core.detect.yolo.blocks import AreaAttention
from fastsam_core.detect.yolo.flops import gflops
from fastsam_core.detect.yolo.load import OFFICIAL_URLS
from fastsam_core.detect.yolo.network import Network

pytestmark = pytest.mark.once("it calls the operations that the tests of YOLOv8 call")
# Width and depth multiples and maximum channels of the sizes; millions of parameters and GFLOPs at 640 as published.
SIZES = {
    "n": (0.25, 0.5, 1024, 2.6, 6.5),
    "s": (0.5, 0.5, 1024, 9.3, 21.4),
    "m": (1.0, 0.5, 512, 20.2, 67.5),
    "l": (1.0, 1.0, 512, 26.4, 88.9),
    "x": (1.5, 1.0, 512, 59.1, 199.0),
}


def sizes_of(size: str) -> Architecture:
    """Return the sizes of a published network."""
    width, depth, most = SIZES[size][:3]
    plan = (64, 128, 256, 256, 512, 512, 512, 1024, 1024)
    later = {11: 512, 14: 256, 15: 256, 17: 512, 18: 512, 20: 1024}
    out_channels = {
        index: int(-(-min(count, most) * width // 8) * 8) for index, count in [*enumerate(plan), *later.items()]
    }
    hidden = {index: out_channels[index] // (4 if index in (2, 4) else 2) for index in (2, 4, 6, 8, 11, 14, 17, 20)}
    is_large, has_larger_blocks = size in "lx", size in "mlx"

    def block(index: int) -> BlockShape:
        if index in (6, 8):
            return BlockShape("area_attention", int(hidden[index] * (1.2 if is_large else 2)), 2)
        inner = hidden[index] // 2
        is_plain = index in (2, 4) and not has_larger_blocks
        return BlockShape("bottleneck", inner) if is_plain else BlockShape("cross_stage", inner, 2)

    return Architecture(
        family=YOLO12,
        out_channels=out_channels,
        hidden_channels=hidden,
        depths={index: round((4 if index in (6, 8) else 2) * depth) for index in hidden},
        blocks={index: block(index) for index in hidden},
        num_bins=16,
        num_classes=80,
        box_channels=max(64, out_channels[14] // 4),
        score_channels=max(80, out_channels[14]),
        scaled_stages=frozenset({6, 8} if is_large else ()),
    )


@pytest.mark.parametrize("size", SIZES)
def test_parameters_and_gflops_match_published_numbers(size: str) -> None:
    sizes = sizes_of(size)
    with torch.device("meta"):
        network = Network(sizes)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert Architecture.from_shapes(shapes) == sizes
    millions, published_gflops = SIZES[size][3:]
    count = sum(value.numel() for value in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
    assert gflops(network, 640) == pytest.approx(published_gflops, rel=0.02)
    assert gflops(network, 608) < gflops(network, 609) == gflops(network, 640)  # multiples of 32
    assert f"yolo12{size}.pt" in OFFICIAL_URLS and f"yolo12{size}-seg.pt" not in OFFICIAL_URLS


def test_attention_stays_within_areas() -> None:
    torch.manual_seed(0)
    attention = AreaAttention(64, 4)
    attention.pe.requires_grad_(False)
    for parameter in attention.pe.parameters():
        parameter.zero_()
    x = torch.randn(2, 64, 6, 2)  # areas of three positions: one and a half rows
    changed = x.clone()
    changed[:, :, 1, 1] += 1  # the first position of the second area
    with torch.no_grad():
        difference = (attention(changed) - attention(x)).abs().amax((0, 1)).flatten()
    assert (difference[3:6] > 1e-4).all() and not difference[:3].any() and not difference[6:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"blocks": {11: BlockShape("area_attention", 64, 2)}},
            "layer 11 has attention, which that of YOLO12 does not",
        ),
        ({"hidden_channels": {6: 48}}, "48 channels can't be divided into heads of 32"),
        ({"out_channels": {7: 128}}, "128 input channels can't be added to 256 output channels"),
    ],
)
def test_sizes_that_fit_no_network_are_refused(change: dict[str, dict[int, Any]], message: str) -> None:
    sizes = dataclasses.replace(sizes_of("n"), scaled_stages=frozenset({6, 8}))
    with torch.device("meta"):
        Network(sizes)
        (name, values) = next(iter(change.items()))
        with pytest.raises(ValueError, match=message):
            Network(dataclasses.replace(sizes, **{name: {**getattr(sizes, name), **values}}))
