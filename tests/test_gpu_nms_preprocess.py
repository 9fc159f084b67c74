"""Tests on a GPU: NMS and preprocessing kernels, and models in half precision and in batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsam_core import Predictor, ops
from fastsam_core.config import Config
from fastsam_core.encoded_image import EncodedImage
from fastsam_core.models import registry
from fastsam_core.models.mask_scoring import OFFICIAL
from fastsam_core.ops import _native_cuda
from fastsam_core.preprocess import PIXEL_MEAN, PIXEL_STD, preprocess
from fastsam_core.prompts import Prompts
from fastsam_core.segment import decode_prompts
from fastsam_core.stopwatch import Stopwatch
from gpu_waits import waits
from small_model import QUIET, bgr_image, small_model
from test_nms import random_boxes
from test_preprocess_ops import random_image, same_bits

pytestmark = pytest.mark.gpu

FORM = (683, 1024, 1024, PIXEL_MEAN, PIXEL_STD)


def nms_input(n: int, dtype: Any = np.float32, side: float = 500.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores with ties, and class ids; classes have very different numbers of boxes."""
    rng = np.random.default_rng(n)
    boxes, scores = random_boxes(rng, n, side, dtype), rng.integers(0, n // 3 + 1, n).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(rng.integers(0, 40, n) ** 2 // 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000, 4096, 4097, 30_000])
def test_nms_equals_the_cpu(n: int, dtype: Any) -> None:
    boxes, scores, classes = nms_input(n, dtype)
    on_gpu = [x.cuda() for x in (boxes, scores, classes)]
    for threshold in (0.0, 0.3, 0.7, 1.0):
        assert ops.nms(*on_gpu[:2], threshold).tolist() == ops.nms(boxes, scores, threshold).tolist()
        assert (
            ops.batched_nms(*on_gpu, threshold).tolist() == ops.batched_nms(boxes, scores, classes, threshold).tolist()
        )


def test_nms_of_a_hundred_thousand_boxes_takes_little_memory() -> None:
    boxes, scores, classes = (x.cuda() for x in nms_input(100_000, side=20_000))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = ops.batched_nms(boxes, scores, classes, 0.5)
    assert torch.cuda.max_memory_allocated() - before < 40 << 20  # one bit per pair would take 1.25 GB
    assert kept.tolist() == ops.batched_nms(boxes.cpu(), scores.cpu(), classes.cpu(), 0.5).tolist()


def test_nms_synchronises_once() -> None:
    boxes, scores, classes = (x.cuda() for x in nms_input(9000))
    for run in (lambda: ops.nms(boxes, scores, 0.5), lambda: ops.batched_nms(boxes, scores, classes.float(), 0.5)):
        run()
        with waits() as syncs:
            run()
        assert len(syncs) == 1, [str(one.message) for one in syncs]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nms_refuses_nan_and_infinity(bad: float) -> None:
    boxes, scores, classes = (x.cuda() for x in nms_input(5000))
    boxes[4321, 2] = bad
    with pytest.raises(ValueError, match="boxes hold NaN or infinity"):
        ops.nms(boxes, scores, 0.5)
    boxes[4321, 2] = 0
    scores[77] = float("nan")
    with pytest.raises(ValueError, match="scores hold NaN"):
        ops.batched_nms(boxes, scores, classes, 0.5)
    with pytest.raises(ValueError, match="idxs hold NaN"):
        ops.batched_nms(boxes, scores, scores, 0.5)


@pytest.mark.parametrize("shape", [(1200, 1800), (480, 640), (3000, 4000), (9, 12000), (1024, 1024), (1, 1)])
def test_preprocessing_equals_the_cpu(shape: tuple[int, int]) -> None:
    image = random_image(shape[1] + 1, *shape)
    for view in (image, np.ascontiguousarray(image[..., ::-1])[..., ::-1], image.transpose(1, 0, 2)):
        wanted, content = preprocess(view, 1024)
        given, its_content = preprocess(view, 1024, "cuda")
        assert given.is_cuda and content == its_content and same_bits(given.cpu(), wanted)
    frame, small = torch.from_numpy(image), (211, 317)
    assert same_bits(ops.resize_image(frame.cuda(), *small).cpu(), ops.resize_image(frame, *small))
    last = (*small, 333, PIXEL_MEAN, PIXEL_STD, True, True)
    assert same_bits(ops.preprocess_image(frame.cuda(), *last).cpu(), ops.preprocess_image(frame, *last))


def test_preprocessing_never_synchronises_and_can_be_captured() -> None:
    frames = [torch.from_numpy(random_image(seed, 1200, 1800)).cuda() for seed in (1, 2)]
    wanted = [ops.preprocess_image(frame, *FORM) for frame in frames]
    with waits() as syncs:
        ops.preprocess_image(frames[0], *FORM)
    assert not syncs
    still, graph = frames[0].clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.preprocess_image(still, *FORM)
    for frame, one in zip(frames, wanted, strict=True):
        still.copy_(frame)
        graph.replay()
        assert torch.equal(out, one)


def test_pinned_frame_may_be_overwritten_after_preprocessing() -> None:
    frame = torch.from_numpy(random_image(1, 1200, 1800)).pin_memory()
    wanted, _ = preprocess(frame.numpy(), 1024, "cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(50_000_000)  # some tens of milliseconds
    given, _ = preprocess(frame.numpy(), 1024, "cuda")
    frame.zero_()
    assert same_bits(given.cpu(), wanted.cpu())


def test_points_with_expanded_labels_are_decoded() -> None:
    model = registry.build("sam_nano").cuda().eval()
    grid, channels = model.image_size // 16, model.prompt_encoder.embed_dim
    embedding, points = torch.zeros(1, channels, grid, grid, device="cuda"), torch.ones(5, 1, 2)
    of_one, _ = model.decode_points(embedding, points, torch.ones(1, 1).expand(5, 1))
    assert torch.equal(of_one, model.decode_points(embedding, points, torch.ones(5, 1))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_predictor_in_half_precision(dtype: torch.dtype) -> None:
    boxes = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]
    model = small_model()
    model.mask_scoring = OFFICIAL  # without stability, which varies a lot for masks of few pixels
    predictor = Predictor(overrides={"model": model, **QUIET})
    predictor.args.device = "cpu"
    predictor.set_image(bgr_image(60, 90))
    features = predictor.features.cuda()  # from the CPU, because convolutions on a GPU may use TF32
    predictor.args.device = "cuda"
    predictor.set_image(bgr_image(60, 90))
    wanted = predictor(bboxes=boxes)[0]
    given = predictor(bboxes=boxes, dtype=dtype)[0]
    assert predictor.features.dtype == given.predicted_iou.dtype == torch.float32
    assert torch.equal(predictor.features, predictor.features.to(dtype).float())
    spread = 2.0**-6 if dtype == torch.bfloat16 else 2.0**-9
    assert 0 < (predictor.features - features).abs().max() < 4 * spread * features.abs().max()
    assert torch.allclose(given.predicted_iou, wanted.predicted_iou, atol=0.05)
    assert (given.masks.data == wanted.masks.data).float().mean() > 0.97
    assert (predictor(bboxes=boxes)[0].masks.data == wanted.masks.data).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("count", [1, 5])
def test_decoding_prompts_does_not_synchronise(count: int, dtype: torch.dtype | None) -> None:
    model, image = small_model().cuda(), EncodedImage(bgr_image(60, 90), "image")
    model.set_image_size(128)
    for given in ({"bboxes": [[4.0, 6.0, 40.0, 30.0]] * count}, {"points": [[20, 10]] * count}):
        prompts = Prompts.parse(**given)
        assert prompts is not None
        for _ in range(2):  # the first call encodes the image and fills caches
            with waits() as syncs:
                found = [*decode_prompts(model, image, prompts, True, dtype, Stopwatch())]
        assert found[0][1].is_cuda and not syncs, [str(one.message) for one in syncs]


def test_batched_images_equal_single_ones() -> None:
    images = [np.roll(bgr_image(40 + i, 60), 7 * i, axis=1) for i in range(5)]
    model = small_model().cuda()
    model.mask_scoring = OFFICIAL
    predictor = Predictor(overrides={"model": model, **QUIET})
    single = predictor(images, bboxes=[4.0, 6.0, 25.0, 20.0])
    model.batches.clear()
    together = predictor(images, bboxes=[4.0, 6.0, 25.0, 20.0], batch=2)
    assert model.batches == [2, 2, 1]
    for one, other in zip(single, together, strict=True):
        assert one.path == other.path
        assert torch.allclose(one.predicted_iou, other.predicted_iou, atol=1e-2)  # TF32 convolutions
        assert (one.masks.data == other.masks.data).float().mean() > 0.99


def test_number_of_points_decoded_together_depends_on_kernels_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("mobile_sam").cuda().eval()
    ample = torch.cuda.get_device_properties(0).total_memory >= 8 << 30
    for dtype, together in ((torch.float16, 1024), (torch.bfloat16, 1024), (torch.float32, 512)):
        why_not = ops.why("decoder_first_pass", torch.empty(1, device="cuda", dtype=dtype))["cuda"]
        assert model.points_per_batch(dtype) == (together if ample and not why_not else 64)
    assert Config().updated({"points_batch_size": 7, "half": True}).generate_options(model)["points_batch_size"] == 7
    monkeypatch.setattr(_native_cuda, "use_unvalidated", False)
    assert model.points_per_batch() == 64  # PyTorch decodes float32 now, also in the next line
    assert registry.build("sam_nano").cuda().eval().points_per_batch() == (512 if ample else 128)
