"""Preprocessing of images (resize, normalise, pad) and of points, and copies to a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fastsam_core.models.common import to_device
from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD, preprocess, resize, resized_shape, scale_points


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([16, 512, 1024]))
def test_resized_shape_keeps_the_aspect_ratio(height: int, width: int, long_side: int) -> None:
    new_height, new_width = resized_shape(height, width, long_side)
    assert max(new_height, new_width) == long_side
    assert min(new_height, new_width) >= 1
    scale = long_side / max(height, width)
    assert abs(new_height - height * scale) <= 0.5 or new_height == 1
    assert abs(new_width - width * scale) <= 0.5 or new_width == 1


def test_resized_shape_rounds_halves_up_as_the_reference() -> None:
    assert resized_shape(201, 2048, 1024) == (101, 1024)


@pytest.mark.parametrize("shape", [(300, 700), (1, 900), (700, 5), (64, 64), (10, 20)])
def test_resize_matches_pillow(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    out = resize(image, 128)
    height, width = resized_shape(*shape, 128)
    # One axis at a time, the width first: since version 13, Pillow's own order depends on the sizes.
    wanted = Image.fromarray(image).resize((width, shape[0]), Image.Resampling.BILINEAR)
    wanted = np.asarray(wanted.resize((width, height), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(out, wanted)


def test_preprocess_normalises_then_pads_with_zero() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    kept = image.copy()
    out, content = preprocess(image, 64)
    assert out.shape == (1, 3, 64, 64)
    assert out.dtype == torch.float32
    assert content == (32, 64)
    wanted = (200 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(out[0, :, :32], wanted[:, None, None].expand(3, 32, 64))
    assert not out[0, :, 32:].any()
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_resize_rejects_bad_images(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a non-empty uint8"):
        resize(image, 64)


def test_scale_points_has_a_factor_per_axis_and_leaves_its_input() -> None:
    points = torch.tensor([[[100.0, 50.0]]], dtype=torch.float64)
    out = scale_points(points, (201, 2048), (101, 1024))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor([[[50.0, 50.0 * 101 / 201]]]))
    assert points.tolist() == [[[100.0, 50.0]]]


@pytest.mark.parametrize(("shape", "pinned"), [((5, 1), True), ((1, 1), False)])
def test_to_device_copies_from_memory_of_its_own(
    shape: tuple[int, int], pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller may change its tensor during the asynchronous copy. Here `Tensor.to` returns the source it copies."""

    def pin_memory(tensor: Tensor) -> Tensor:  # as in PyTorch
        size = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        memory = torch.UntypedStorage(size * tensor.element_size())
        return tensor.new_empty(0).set_(memory, 0, tensor.shape, tensor.stride()).copy_(tensor)

    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda tensor, pin_memory: empty_like(tensor))
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: pinned)
    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Tensor, "to", lambda tensor, device, non_blocking: tensor)
    own = torch.ones(shape)
    there = to_device(own.expand(5, 1), torch.device("cuda"))
    own.zero_()
    assert torch.equal(there, torch.ones(5, 1))
