"""`MaskResizer`, which computes masks from low-resolution logits by region: same as two dense bilinear resizes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from fastsam_core.ops._masks.reference import find_changes_on_device
from fastsam_core.postprocess import MaskResizer
from fastsam_core.preprocess import resized_shape
from fastsam_core.runs import find_changes
from tensor_sizes import LargestTensor


def dense_logits(low_res, input_hw, original_hw, image_size):
    """Resize (l, l) logits to the square, cut off the padding, and resize to (H, W), with PyTorch."""
    square = F.interpolate(low_res[None, None], (image_size, image_size), mode="bilinear", align_corners=False)
    content = square[..., : input_hw[0], : input_hw[1]]
    return F.interpolate(content, original_hw, mode="bilinear", align_corners=False)[0, 0]


def smooth_logits(seed, side, detail, bias=0.0):
    """Return (side, side) smooth noise with features of about `side / detail` cells, in the range of real logits."""
    noise = torch.randn(1, 1, detail, detail, generator=torch.Generator().manual_seed(seed))
    return (8 * F.interpolate(noise, (side, side), mode="bicubic")[0, 0] + bias).clamp(-20, 20)


def decoded(rle):
    return coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


def check_record(record, full, threshold, offset):
    """Check a record against dense logits, except for pixels whose logit is within rounding of a threshold."""
    height, width = full.shape
    mask = decoded(record.rle)
    assert record.rle["size"] == [height, width]
    unclear = (full - threshold).abs() < 1e-5
    assert not ((torch.from_numpy(mask) != (full > threshold)) & ~unclear).any()
    assert coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() == record.rle["counts"]
    assert record.area == mask.sum()
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else (0, 0, 0, 0)
    assert record.box_xyxy == box
    inner, outer = (int((full > level).sum()) for level in (threshold + offset, threshold - offset))
    slack = int(sum(((full - level).abs() < 1e-5).sum() for level in (threshold + offset, threshold - offset)))
    if outer:
        assert abs(record.stability_score - inner / outer) <= (slack + 1e-6 * outer) / outer
    elif not slack:
        assert record.stability_score == 0.0


@given(
    quarter=st.integers(4, 24),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    seed=st.integers(0, 1000),
    detail=st.integers(1, 12),
    bias=st.sampled_from([-25.0, -8.0, 0.0, 8.0, 25.0]),
    threshold=st.sampled_from([0.0, 0.0, -1.5, 2.25]),
    offset=st.sampled_from([1.0, 0.0, 0.95, 3.0]),
)
@example(16, 1, 150, 0, 8, 0.0, 0.0, 1.0)
@example(4, 150, 149, 1, 4, 0.0, 0.0, 1.0)
@example(24, 5, 7, 2, 12, 0.0, 0.0, 1.0)
@settings(deadline=None, max_examples=100)
def test_record_matches_dense_resizing(quarter, height, width, seed, detail, bias, threshold, offset):
    input_hw = resized_shape(height, width, 4 * quarter)
    low_res = smooth_logits(seed, quarter, detail, bias)
    resizer = MaskResizer(input_hw, (height, width), 4 * quarter)
    full = dense_logits(low_res, input_hw, (height, width), 4 * quarter)
    assert torch.equal(resizer.logits(low_res), full)
    check_record(resizer.record(low_res, threshold, offset), full, threshold, offset)


@pytest.mark.parametrize(
    ("original_hw", "image_size"), [((1200, 1800), 1024), ((517, 333), 1024), ((1024, 700), 1024), ((480, 640), 512)]
)
def test_record_matches_dense_resizing_at_real_sizes(original_hw, image_size):
    input_hw = resized_shape(*original_hw, image_size)
    resizer = MaskResizer(input_hw, original_hw, image_size)
    for detail in (6, 40):
        low_res = smooth_logits(detail, image_size // 4, detail)
        check_record(resizer.record(low_res), dense_logits(low_res, input_hw, original_hw, image_size), 0.0, 1.0)


def test_sampling_positions_are_rounded_as_in_pytorch():
    # At 12,000 pixels float32 positions have errors up to 1e-4. With steep logits, exact positions flip many pixels.
    low_res = smooth_logits(3, 256, 60) * 1000
    resizer = MaskResizer((3, 1024), (35, 12000), 1024)
    full = dense_logits(low_res, (3, 1024), (35, 12000), 1024)
    assert np.count_nonzero(decoded(resizer.record(low_res).rle) != (full > 0).numpy()) <= 3


def test_noise_in_every_cell_matches_dense_resizing():
    low_res = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    resizer = MaskResizer((171, 256), (400, 600), 256)
    check_record(resizer.record(low_res, offset=0.1), dense_logits(low_res, (171, 256), (400, 600), 256), 0.0, 0.1)


def test_records_match_single_records_in_order():
    low_res = torch.stack([smooth_logits(seed, 16, 5) for seed in range(7)])
    resizer = MaskResizer((64, 48), (90, 67), 64)
    assert resizer.records(low_res) == [resizer.record(one) for one in low_res]
    assert resizer.records(low_res[:0]) == []


def test_measures_of_empty_and_full_masks():
    resizer = MaskResizer((64, 48), (90, 67), 64)
    empty = resizer.record(torch.full((16, 16), -5.0))
    assert (empty.area, empty.box_xyxy, empty.stability_score) == (0, (0, 0, 0, 0), 0.0)
    assert not decoded(empty.rle).any()
    full = resizer.record(torch.full((16, 16), 5.0))
    assert (full.area, full.box_xyxy, full.stability_score) == (90 * 67, (0, 0, 66, 89), 1.0)
    assert decoded(full.rle).all()


def test_foreground_in_the_padding_is_ignored():
    low_res = torch.full((16, 16), -5.0)
    low_res[14:] = 9.0
    record = MaskResizer((40, 64), (40, 64), 64).record(low_res)
    assert (record.area, record.stability_score) == (0, 0.0)


def test_empty_mask_above_the_lower_threshold_has_stability_0():
    # All logits are between -1 and 0: the mask is empty, and its stability score is 0.
    record = MaskResizer((64, 64), (64, 64), 64).record(torch.full((16, 16), -0.5))
    assert (record.area, record.stability_score) == (0, 0.0)


def test_stability_score_is_a_float32_value():
    resizer = MaskResizer((64, 64), (200, 200), 64)
    score = resizer.record(smooth_logits(4, 16, 4)).stability_score
    assert 0 < score < 1
    assert score == float(np.float32(score))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_non_finite_logits_affect_only_their_cell(value):
    low_res = smooth_logits(5, 16, 4)
    resizer = MaskResizer((64, 64), (64, 64), 64)
    low_res[3, 8] = 1e9 if value > 0 else -1e9
    expected = resizer.record(low_res).rle
    low_res[3, 8] = value
    assert resizer.record(low_res).rle == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_dtypes_are_cast_to_float32(dtype):
    low_res = smooth_logits(6, 16, 4).to(dtype)
    resizer = MaskResizer((64, 60), (77, 72), 64)
    assert resizer.record(low_res) == resizer.record(low_res.float())


def test_autocast_and_matmul_precision_do_not_change_masks():
    low_res = smooth_logits(7, 64, 12)
    resizer = MaskResizer((256, 200), (511, 400), 256)
    expected = resizer.record(low_res)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert resizer.record(low_res) == expected
        with torch.inference_mode():
            assert resizer.record(low_res.clone()) == expected
    finally:
        torch.set_float32_matmul_precision(precision)


def test_strided_logits_that_require_grad_are_not_modified():
    storage = torch.stack([smooth_logits(8, 16, 4), smooth_logits(9, 16, 4)], -1).requires_grad_()
    before = storage.detach().clone()
    resizer = MaskResizer((64, 60), (77, 72), 64)
    assert resizer.record(storage[..., 1]) == resizer.record(before[..., 1].contiguous())
    assert torch.equal(storage, before)
    assert not resizer.logits(storage[..., 0]).requires_grad


def test_memory_does_not_grow_with_the_image():
    low_res = torch.stack([smooth_logits(1, 256, 3, -3.0), torch.full((256, 256), 20.0)])
    resizer = MaskResizer((1024, 512), (12000, 6000), 1024)
    with LargestTensor():
        resizer.measure(low_res[:0])  # warm-up: PyTorch imports modules when operations are intercepted
    tracemalloc.start()
    try:
        with LargestTensor() as largest:
            found = resizer.measure(low_res)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.areas[1] == 12000 * 6000
    assert 2**16 <= largest.numel < 2**22  # the image has 72 million pixels
    assert peak < 16 * 2**20


def test_find_changes_agrees_between_numpy_and_torch():
    above = torch.rand(9, 13, generator=torch.Generator().manual_seed(0)) < 0.5
    above[:, -1] = False
    assert find_changes_on_device(above).tolist() == find_changes(above.numpy()).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((64, 64), (10, 10), 63), "image_size must be a positive multiple of 4, got 63"),
        (((64, 64), (10, 10), 0), "image_size must be a positive multiple of 4, got 0"),
        (((65, 64), (10, 10), 64), r"input_hw must lie in 1..64 \(image_size\), got \(65, 64\)"),
        (((64, 0), (10, 10), 64), "input_hw"),
        (((64, 64), (0, 10), 64), r"original_hw must be positive, got \(0, 10\)"),
    ],
)
def test_bad_sizes_raise_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskResizer(*arguments)


def test_bad_logits_raise_errors():
    resizer = MaskResizer((64, 64), (10, 10), 64)
    with pytest.raises(ValueError, match=r"shape \(N, 16, 16\), got \(1, 16, 15\)"):
        resizer.record(torch.zeros(16, 15))
    with pytest.raises(ValueError, match=r"shape \(N, 16, 16\), got \(16, 16\)"):
        resizer.records(torch.zeros(16, 16))
    with pytest.raises(ValueError, match="one mask"):
        resizer.logits(torch.zeros(2, 16, 16))
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        resizer.record(torch.zeros(16, 16, dtype=torch.int64))
    with pytest.raises(TypeError, match="floating-point tensor, got ndarray"):
        resizer.records(np.zeros((1, 16, 16), np.float32))
    with pytest.raises(ValueError, match="offset must be 0 or more, got -1"):
        resizer.record(torch.zeros(16, 16), offset=-1)
