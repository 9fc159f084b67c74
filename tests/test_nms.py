"""NMS: every sibling against an O(n^2) loop in Python, plus order, classes, degenerate boxes and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsam_core import ops
from siblings import each_sibling_of, emulated, names_of

NAMES = names_of("nms")
each_sibling = each_sibling_of("nms")


def plain_nms(boxes, scores, classes, threshold):
    """Return the indices of the kept boxes, computed in the precision of `boxes` (a NumPy array)."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    area = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    kept = []
    for i in order:
        for k in kept:
            width = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0])
            height = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1])
            if classes[i] != classes[k] or width <= 0 or height <= 0:
                continue
            shared = width * height
            # As a Python float, so that the threshold is not rounded to the boxes' precision first.
            if float(shared / (area[k] + area[i] - shared)) > threshold:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(rng, n, side, dtype=np.float32):
    corner, extent = rng.random((n, 2)) * side, rng.random((n, 2)) * side / 3
    return np.concatenate([corner, corner + extent], 1).astype(dtype)


# A coarse grid makes ties, equal boxes, empty boxes and IoUs that equal the threshold likely.
grid_box = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-1, 5), st.integers(-1, 5)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
problems = st.lists(st.tuples(grid_box, st.integers(-3, 3), st.integers(0, 2)), max_size=25)


@each_sibling
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    problem=problems,
    threshold=st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_matches_plain_nms(sibling, problem, threshold, dtype):
    boxes = np.array([box for box, _, _ in problem], dtype=dtype).reshape(-1, 4)
    scores = torch.tensor([score / 4 for _, score, _ in problem], dtype=torch.float32)
    classes = torch.tensor([c for _, _, c in problem], dtype=torch.int64)
    expected = plain_nms(boxes, scores.tolist(), [0] * len(boxes), threshold)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = ops.siblings("nms")[sibling](torch.from_numpy(boxes), scores, threshold)
        assert kept.dtype == torch.int64 and kept.tolist() == expected
        by_class = ops.siblings("batched_nms")[sibling](torch.from_numpy(boxes), scores, classes, threshold)
        assert by_class.tolist() == plain_nms(boxes, scores.tolist(), classes.tolist(), threshold)


@each_sibling
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [63, 64, 65, 256, 700])  # around the size of the kernel's block, and larger than its tile
def test_matches_plain_nms_around_block_sizes(sibling, dtype, n):
    rng = np.random.default_rng(n)
    boxes, scores = random_boxes(rng, n, 60, dtype), rng.random(n).astype(np.float32)
    kept = ops.siblings("nms")[sibling](torch.from_numpy(boxes), torch.from_numpy(scores), 0.3)
    assert kept.tolist() == plain_nms(boxes, scores.tolist(), [0] * n, 0.3)


@pytest.mark.parametrize("sibling", [name for name in NAMES if name.startswith("cuda")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [4095, 4096, 4097, 9000])  # around a chunk, and more than two of them
def test_cuda_matches_cpu_around_chunk_sizes(sibling, dtype, n):
    rng = np.random.default_rng(n)
    boxes, scores = torch.from_numpy(random_boxes(rng, n, 500, dtype)), torch.from_numpy(rng.integers(0, n // 3, n))
    classes = torch.from_numpy(rng.integers(0, 40, n) ** 2 // 100)  # some large, some small
    for threshold in (0.05, 0.7):
        kept = ops.siblings("nms")[sibling](boxes, scores, threshold)
        assert kept.tolist() == ops.nms(boxes, scores, threshold).tolist()
        by_class = ops.siblings("batched_nms")[sibling](boxes, scores, classes, threshold)
        assert by_class.tolist() == ops.batched_nms(boxes, scores, classes, threshold).tolist()
        assert 50 < len(kept) < len(by_class) < n


@each_sibling
def test_suppressed_boxes_suppress_nothing(sibling):
    """Each box overlaps its neighbours only: a suppressed box must not suppress the next one, along the whole chain."""
    n = 1000
    corner = torch.arange(n) * 4.0
    boxes = torch.stack([corner, torch.zeros(n), corner + 10, torch.ones(n)], 1)
    kept = ops.siblings("nms")[sibling](boxes, torch.arange(n, 0, -1), 0.4)
    assert kept.tolist() == list(range(0, n, 2))
    kept = ops.siblings("nms")[sibling](boxes, torch.ones(n), 0.1)
    assert kept.tolist() == list(range(0, n, 3))


@each_sibling
def test_large_negative_and_fractional_classes_are_compared_exactly(sibling):
    # Shifting the boxes by class number * extent, a common trick, would round these coordinates to equal values.
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.6, 0.0, 1.6, 1.0], [0.0, 0.0, 1.0, 1.0]])
    classes = torch.tensor([2**40, 2**40, 2**40 + 1])
    run = ops.siblings("batched_nms")[sibling]
    assert run(boxes, torch.tensor([0.9, 0.8, 0.7]), classes, 0.5).tolist() == [0, 1, 2]
    assert run(boxes, torch.tensor([0.9, 0.8, 0.7]), classes, 0.2).tolist() == [0, 2]
    assert run(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.5, 0.5, 0.25]), 0.2).tolist() == [0, 2]
    assert run(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.0, -0.0, -1.0]), 0.2).tolist() == [0, 2]
    assert run(boxes, torch.tensor([0.7, 0.8, 0.9]), torch.tensor([-5, -5, 2**62]), 0.2).tolist() == [2, 1]


@each_sibling
def test_float64_coordinates_are_not_rounded_to_float32(sibling):
    offset = 2.0**30
    boxes = torch.tensor([[0.0, 0, 10, 10], [9, 0, 19, 10], [1, 0, 11, 10]], dtype=torch.float64) + offset
    assert ops.siblings("nms")[sibling](boxes, torch.tensor([3.0, 2.0, 1.0]), 0.5).tolist() == [0, 1]
    assert ops.siblings("nms")[sibling](boxes.long(), torch.tensor([3, 2, 1]), 0.5).tolist() == [0, 1]


@each_sibling
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1), (torch.bfloat16, 1), (torch.int32, 1 << 16)])
def test_areas_of_half_bfloat16_and_integer_boxes_are_exact(sibling, dtype, scale):
    # The IoU of the first two is 0.9848. Their areas would be rounded in half precision, and overflow int32.
    boxes = torch.tensor([[0, 0, 130, 130], [0, 0, 131, 131], [200, 200, 250, 250]], dtype=dtype) * scale
    scores = torch.tensor([1, 2, 0], dtype=dtype)
    assert ops.siblings("nms")[sibling](boxes, scores, 0.9845).tolist() == [1, 2]
    assert ops.siblings("nms")[sibling](boxes, scores, 0.985).tolist() == [1, 0, 2]


@each_sibling
def test_ties_are_ordered_by_index_and_infinite_scores_ranked(sibling):
    boxes = torch.arange(6.0)[:, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([-0.0, 0.0, 1.0, float("inf"), 1.0, -float("inf")])
    assert ops.siblings("nms")[sibling](boxes, scores, 0.5).tolist() == [3, 2, 4, 0, 1, 5]


@each_sibling
def test_boxes_without_area_overlap_nothing(sibling):
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [8, 8, 2, 2], [3, 0, 3, 10]])
    assert ops.siblings("nms")[sibling](boxes, torch.ones(5), 0.0).tolist() == [0, 1, 2, 3, 4]


@each_sibling
def test_threshold_is_not_rounded_up(sibling):
    # The IoU is the float32 nearest to 0.1, which lies above 0.1.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    run = ops.siblings("nms")[sibling]
    assert run(boxes, torch.tensor([2.0, 1.0]), 0.1).tolist() == [0]
    assert run(boxes, torch.tensor([2.0, 1.0]), float(np.float32(0.1))).tolist() == [0, 1]
    assert run(boxes.double(), torch.tensor([2.0, 1.0]), 0.1).tolist() == [0, 1]  # here the IoU is 0.1 itself


@each_sibling
def test_strided_input_that_requires_grad(sibling):
    storage = torch.rand(40, 8, requires_grad=True)
    boxes = storage.T[::2].T  # (40, 4), strides (8, 2)
    boxes = torch.stack([boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]]).T
    scores = storage[:, 7]
    run = ops.siblings("nms")[sibling]
    expected = run(boxes.detach().contiguous(), scores.detach().contiguous(), 0.3)
    assert run(boxes, scores, 0.3).tolist() == expected.tolist()
    assert ops.nms(boxes, scores, 0.3).tolist() == expected.tolist()


@each_sibling
def test_boxes_at_an_unaligned_address(sibling):
    numbers = torch.arange(1.0, 42.0)
    boxes = numbers[1:].view(10, 4)
    expected = ops.siblings("nms")[sibling](boxes.clone(), -boxes[:, 0], 0.05)
    assert ops.siblings("nms")[sibling](boxes, -boxes[:, 0], 0.05).tolist() == expected.tolist()


def test_cuda_scratch_memory_is_linear_in_boxes():
    need = emulated.nms_scratch_bytes
    for wide in (False, True):
        assert need(10_000_000, wide) < 50 * 10_000_000
    with pytest.raises(ValueError, match="negative"):
        need(-1, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "boxes"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"boxes": 8}, "multiple of 16"),
        ({"scratch": 24}, "multiple of 16"),
        ({"scratch_size": 1000}, "too small"),
    ],
)
def test_cuda_binding_checks_sizes(changes, message):
    addresses = dict.fromkeys(("boxes", "order", "classes", "max_score", "scratch", "kept", "status", "stream"), 0)
    sizes = {"n": 5, "boxes_are_double": False, "scores_are_double": False, "threshold": 0.5, "scratch_size": 1 << 30}
    with pytest.raises(ValueError, match=message):
        emulated.nms(**{**addresses, **sizes, **changes})


@each_sibling
def test_empty_input(sibling):
    empty = torch.empty(0, 4)
    for op, more in (("nms", ()), ("batched_nms", (torch.empty(0, dtype=torch.int64),))):
        kept = ops.siblings(op)[sibling](empty, torch.empty(0), *more, 0.5)
        assert kept.shape == (0,) and kept.dtype == torch.int64


BOXES, SCORES, IDXS = torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]]), torch.tensor([0.5, 0.6]), torch.tensor([0, 1])


def with_value(tensor, value):
    changed = tensor.clone().to(torch.float32)
    changed.view(-1)[1] = value
    return changed


@each_sibling
@pytest.mark.parametrize(
    ("boxes", "scores", "idxs", "threshold"),
    [
        pytest.param(BOXES[0], SCORES, IDXS, 0.5, id="one box without a row"),
        pytest.param(BOXES[:, :3], SCORES, IDXS, 0.5, id="three columns"),
        pytest.param(BOXES, SCORES[:1], IDXS, 0.5, id="too few scores"),
        pytest.param(BOXES, SCORES[:, None], IDXS, 0.5, id="scores in a column"),
        pytest.param(BOXES, SCORES, IDXS[:1], 0.5, id="too few classes"),
        pytest.param(with_value(BOXES, float("nan")), SCORES, IDXS, 0.5, id="NaN box"),
        pytest.param(with_value(BOXES, float("inf")), SCORES, IDXS, 0.5, id="infinite box"),
        pytest.param(BOXES, with_value(SCORES, float("nan")), IDXS, 0.5, id="NaN score"),
        pytest.param(BOXES, SCORES, with_value(IDXS, float("nan")), 0.5, id="NaN class"),
        pytest.param(BOXES.to(torch.complex64), SCORES, IDXS, 0.5, id="complex boxes"),
        pytest.param(BOXES > 0, SCORES, IDXS, 0.5, id="boolean boxes"),
        pytest.param(BOXES.to(torch.float8_e4m3fn), SCORES, IDXS, 0.5, id="8-bit float boxes"),
        pytest.param(BOXES, SCORES.to(torch.float8_e5m2), IDXS, 0.5, id="8-bit float scores"),
        pytest.param(BOXES, SCORES, IDXS.to(torch.float8_e4m3fn), 0.5, id="8-bit float classes"),
        pytest.param(BOXES, SCORES, IDXS, -0.1, id="negative threshold"),
        pytest.param(BOXES, SCORES, IDXS, 1.5, id="threshold above one"),
        pytest.param(BOXES, SCORES, IDXS, float("nan"), id="NaN threshold"),
    ],
)
def test_bad_input_raises_value_error(sibling, boxes, scores, idxs, threshold):
    with pytest.raises(ValueError):
        ops.siblings("batched_nms")[sibling](boxes, scores, idxs, threshold)
    with pytest.raises(ValueError):
        ops.batched_nms(boxes, scores, idxs, threshold)
    if idxs is IDXS:
        with pytest.raises(ValueError):
            ops.siblings("nms")[sibling](boxes, scores, threshold)
