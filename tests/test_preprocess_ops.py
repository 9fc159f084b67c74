"""Resizing and preprocessing in every sibling, bit for bit against Pillow and Pillow with PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam_core import ops
from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD, preprocess, resize, resized_shape
from siblings import each_sibling_of, emulated

each_sibling = each_sibling_of("preprocess_image")


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    """Return noise. Every third seed has only 0 and 255, whose sums come closest to the limits of the arithmetic."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return (rng.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # One axis at a time: since version 13, Pillow's own order depends on the sizes.
    rows_resized = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(rows_resized.resize((width, height), Image.Resampling.BILINEAR))


def model_input(resized: np.ndarray, size: int) -> torch.Tensor:
    mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1)
    out = torch.zeros(1, 3, size, size)
    out[0, :, : resized.shape[0], : resized.shape[1]] = (torch.tensor(resized).permute(2, 0, 1) - mean) / std
    return out


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@each_sibling
@pytest.mark.parametrize("seed", range(25))
def test_random_sizes_match_pillow(sibling: str, seed: int) -> None:
    run, whole = ops.siblings("resize_image")[sibling], ops.siblings("preprocess_image")[sibling]
    rng = np.random.default_rng(seed)
    for i in range(12):
        old_height, old_width, height, width = (int(side) for side in rng.integers(1, 70, 4))
        image = random_image(12 * seed + i, old_height, old_width)
        wanted = pillow(image, height, width)
        np.testing.assert_array_equal(run(torch.from_numpy(image), height, width).numpy(), wanted)
        size = max(height, width) + int(rng.integers(0, 5))
        given = whole(torch.from_numpy(image), height, width, size, PIXEL_MEAN, PIXEL_STD)
        assert same_bits(given, model_input(wanted, size))


@each_sibling
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (64, 64)),
        ((1, 5000), (1, 64)),
        ((3000, 1), (64, 1)),
        ((9, 12000), (1, 1024)),
        ((40, 100_000), (3, 7)),
        ((700, 700), (1, 1)),
        ((333, 500), (683, 1024)),
        ((1200, 1800), (683, 1024)),
        ((64, 50), (64, 20)),  # one axis keeps its size
        ((64, 50), (20, 50)),
    ],
)
def test_extreme_sizes_match_pillow(sibling: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    image = random_image(old[1], *old)
    given = ops.siblings("resize_image")[sibling](torch.from_numpy(image), *new)
    np.testing.assert_array_equal(given.numpy(), pillow(image, *new))


@each_sibling
@pytest.mark.parametrize("old", [(120, 180), (180, 120), (108, 192), (192, 108), (48, 64), (302, 403), (200, 200)])
def test_matches_a_single_pillow_call_at_equal_aspect_ratio(sibling: str, old: tuple[int, int]) -> None:
    image, new = random_image(old[0] + 1, *old), resized_shape(*old, 128)
    wanted = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    given = ops.siblings("resize_image")[sibling](torch.from_numpy(image), *new)
    np.testing.assert_array_equal(given.numpy(), wanted)


@each_sibling
def test_any_strides_match_pillow(sibling: str) -> None:
    storage = torch.from_numpy(random_image(1, 90, 80))
    planes = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, 41, 43), dtype=np.uint8))
    flat = torch.tensor([7, 90, 201], dtype=torch.uint8)
    views = {
        "rows and columns left out": storage[::2, 3::3],
        "a crop": storage[5:77, 9:60],
        "turned": storage.transpose(0, 1),
        "planes": planes.permute(1, 2, 0),
        "one pixel, repeated": flat.expand(30, 20, 3),
        "the first channel, repeated": storage[..., :1].expand(90, 80, 3),
        "four channels, of which three": torch.arange(6000).to(torch.uint8).view(30, 50, 4)[..., :3],
    }
    for name, view in views.items():
        for new in ((17, 50), (view.shape[0], view.shape[1])):
            for bgr in (False, True):
                image = np.ascontiguousarray(view.numpy()[..., ::-1] if bgr else view.numpy())
                wanted = pillow(image, *new)
                given = ops.siblings("resize_image")[sibling](view, *new, bgr)
                assert given.is_contiguous() and np.array_equal(given.numpy(), wanted), (name, new, bgr)
                arguments = (view, *new, 100, PIXEL_MEAN, PIXEL_STD, bgr)
                given = ops.siblings("preprocess_image")[sibling](*arguments, True)
                assert given.is_contiguous() and same_bits(
                    given.permute(0, 3, 1, 2).contiguous(), model_input(wanted, 100)
                )


@each_sibling
@pytest.mark.parametrize("size", [*range(1, 10), 64, 67])
def test_both_layouts_at_every_width(sibling: str, size: int) -> None:
    run = ops.siblings("preprocess_image")[sibling]
    for height, width in {(size, size), (size, max(1, size - 3)), (max(1, size // 2), size)}:
        image = random_image(size, 21, 34)
        wanted = model_input(pillow(image, height, width), size)
        arguments = (torch.from_numpy(image), height, width, size, PIXEL_MEAN, PIXEL_STD, False)
        assert same_bits(run(*arguments, False), wanted)
        assert same_bits(run(*arguments, True), wanted.permute(0, 2, 3, 1).contiguous())


@pytest.mark.parametrize("shape", [(30, 50), (64, 40), (200, 3)])
def test_numpy_views_are_preprocessed_as_their_copies(shape: tuple[int, int]) -> None:
    image = random_image(5, *shape)
    wanted, content = preprocess(image, 64)
    assert content == resized_shape(*shape, 64)
    assert same_bits(wanted, model_input(pillow(image, *content), 64))
    read_only = image.copy()
    read_only.flags.writeable = False
    mirrored = np.ascontiguousarray(image[:, ::-1])
    reversed_channels = np.ascontiguousarray(image[..., ::-1])
    for same in (read_only, mirrored[:, ::-1], reversed_channels[..., ::-1], np.asfortranarray(image)):
        assert same_bits(preprocess(same, 64)[0], wanted)
        np.testing.assert_array_equal(resize(same, 64), resize(image, 64))
    assert not read_only.flags.writeable


def test_cuda_binding_checks_sizes() -> None:
    need = emulated.preprocess_scratch_bytes((40, 50), (20, 30))
    for sides in ((0, 5), (5, 2**23 + 1)):
        with pytest.raises(ValueError, match="sides from 1"):
            emulated.preprocess_scratch_bytes(sides, (20, 30))
    image_args = (0, (40, 50), (150, 3, 1), False, (20, 30))
    with pytest.raises(ValueError, match="too small"):
        emulated.resize_image(*image_args, 0, need - 1, 0, 0)
    with pytest.raises(ValueError, match="multiple of 16"):
        emulated.resize_image(*image_args, 8, need, 0, 0)
    with pytest.raises(ValueError, match="must fit"):
        emulated.preprocess_image(*image_args, 25, PIXEL_MEAN, PIXEL_STD, False, 0, need, 0, 0)


def test_gpu_resizes_frames_only_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastsam_core import preprocess as module

    monkeypatch.setattr(module, "cuda_module", None)
    assert [module._can_resize_on(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [True, False, False]
    monkeypatch.setattr(module, "cuda_module", object())
    assert [module._can_resize_on(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [True, True, False]
    image = random_image(7, 90, 50)[..., ::-1]
    wanted = preprocess(image, 64)
    monkeypatch.setattr(module, "_can_resize_on", lambda device: False)
    given = preprocess(image, 64)
    assert same_bits(given[0], wanted[0]) and given[1] == wanted[1]


IMAGE = torch.zeros(4, 5, 3, dtype=torch.uint8)


@each_sibling
@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        pytest.param("resize_image", (IMAGE.float(), 2, 2), id="float32"),
        pytest.param("resize_image", (IMAGE[0], 2, 2), id="two dimensions"),
        pytest.param("resize_image", (IMAGE[..., :2], 2, 2), id="two channels"),
        pytest.param("resize_image", (IMAGE[:0], 2, 2), id="no rows"),
        pytest.param("resize_image", (IMAGE, 0, 2), id="to no rows"),
        pytest.param("resize_image", (IMAGE, 2, -2), id="to a negative width"),
        pytest.param("resize_image", (IMAGE, 2, 2**40), id="to more than fits"),
        pytest.param("preprocess_image", (IMAGE, 4, 5, 4, PIXEL_MEAN, PIXEL_STD), id="content above the square"),
        pytest.param("preprocess_image", (IMAGE, 4, 5, 5, PIXEL_MEAN[:2], PIXEL_STD), id="two means"),
        pytest.param("preprocess_image", (IMAGE, 4, 5, 5, PIXEL_MEAN, PIXEL_STD * 2), id="six deviations"),
        pytest.param("preprocess_image", (IMAGE.to(torch.int8), 4, 5, 5, PIXEL_MEAN, PIXEL_STD), id="int8"),
    ],
)
def test_bad_input_raises_value_error(sibling: str, op: str, arguments: tuple) -> None:
    with pytest.raises(ValueError):
        ops.siblings(op)[sibling](*arguments)
    with pytest.raises(ValueError):
        getattr(ops, op)(*arguments)
