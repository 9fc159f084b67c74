"""Tests bfloat16 on a CPU: when it is used, what the encoder computes in it, and what stays float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam_core import Predictor, doctor, ops
from fastsam_core.models import image_encoder, precision
from fastsam_core.models.precision import usable_dtypes, why_not_bfloat16
from fastsam_core.models.sam_model import SamModel
from fastsam_core.ops._native import cpu_module
from predictor_examples import dense
from small_model import FEW, QUIET, bgr_image, small_model
from test_precision import BOXES, IMAGES, small_vit

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture
def uncached() -> Iterator[None]:
    """Clear the cached answer of `why_not_bfloat16` before and after the test."""
    why_not_bfloat16.cache_clear()
    yield
    why_not_bfloat16.cache_clear()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, uncached: None) -> None:
    """Pretend that processor, oneDNN and native operations multiply bfloat16 fast."""
    monkeypatch.setattr(precision, "_processor_flags", lambda: {"avx512f", "avx512_bf16"})
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(precision, "cpu_module", SimpleNamespace(has_native_bfloat16=lambda: True))


def test_usable_dtypes_where_bfloat16_is_fast(fast: None, caplog: pytest.LogCaptureFixture) -> None:
    vit, tiny = small_vit().image_encoder, small_model().image_encoder
    assert usable_dtypes(BF16, CPU, vit) == (BF16, F32, BF16)
    assert usable_dtypes(BF16, CPU, tiny) == (F32, F32, BF16)
    for dtype in (None, F32):
        assert usable_dtypes(dtype, CPU, vit) == (dtype, dtype, None)
    assert usable_dtypes(BF16, CUDA, vit) == (BF16, BF16, None)
    assert not caplog.records
    for encoder in (vit, tiny):
        assert usable_dtypes(F16, CPU, encoder) == (F32, F32, None)
    assert [record.message for record in caplog.records] == [
        "dtype=float16 runs in float32 on this CPU; dtype=bfloat16 is faster than float32 here"
    ]
    assert usable_dtypes(BF16, torch.device("meta"), vit) == (F32, F32, None)
    assert "half precision is for CUDA devices; on meta" in caplog.records[-1].message


def test_decoder_is_float32_without_native_bfloat16_products(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native operations may lack bfloat16 products: not compiled in, not selected, or no compiled module."""
    for module in (None, SimpleNamespace(has_native_bfloat16=lambda: False)):
        monkeypatch.setattr(precision, "cpu_module", module)
        assert usable_dtypes(BF16, CPU, small_vit().image_encoder) == (BF16, F32, None)


@pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")
def test_only_avx512_has_native_bfloat16() -> None:
    for name in ops.available_isas():
        with ops.use_isa(name):
            assert not cpu_module.has_native_bfloat16() or name == "avx512"


@pytest.mark.parametrize(
    "flags, onednn, reason", [({"avx512f"}, True, "AVX512-BF16"), ({"avx512_bf16"}, False, "oneDNN")]
)
def test_usable_dtypes_where_bfloat16_is_slow(
    uncached: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: set[str],
    onednn: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(precision, "_processor_flags", lambda: flags)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    encoder = small_vit().image_encoder
    for dtype in (BF16, F16, BF16):
        assert usable_dtypes(dtype, CPU, encoder) == (F32, F32, None)
    assert len(caplog.records) == 2 and all(reason in record.message for record in caplog.records)
    assert doctor.collect()["bfloat16"] == why_not_bfloat16() and reason in doctor.report()


def test_processor_flags_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)
    assert precision._processor_flags() == {"fpu", "avx512_bf16", "amx_tile"}
    monkeypatch.setattr(Path, "read_text", lambda path: "Processor: something else\n")
    assert precision._processor_flags() == set()

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert precision._processor_flags() == set()


def test_doctor_reports_fast_bfloat16(fast: None) -> None:
    assert doctor.collect()["bfloat16"] == ""
    assert "bfloat16  multiplied faster than float32" in doctor.report()


def error(model: SamModel, exact: Tensor) -> float:
    return float((model.encode_image(IMAGES, BF16).float() - exact).norm() / exact.norm())


@torch.no_grad()
def test_encoder_is_more_accurate_than_all_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vit()
    exact = model.encode_image(IMAGES)
    ours = error(model, exact)
    monkeypatch.setattr(image_encoder.ImageEncoderViT, "_can_use_bfloat16", lambda self, images: False)
    assert 0 < ours < error(model, exact)


@torch.no_grad()
def test_activations_between_blocks_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = small_vit(), list[tuple[torch.dtype, ...]]()
    attend, add = image_encoder.Attention.attend, image_encoder._add_layer_norm

    def watched(self: Any, qkv: Tensor, *window: int) -> Tensor:
        result = attend(self, qkv, *window)
        seen.append((self.qkv.weight.dtype, qkv.dtype, result.dtype))
        return result

    def added(x: Tensor, *others: Any) -> Tensor:
        result = add(x, *others)
        seen.append((x.dtype,))
        return result

    monkeypatch.setattr(image_encoder.Attention, "attend", watched)
    monkeypatch.setattr(image_encoder, "_add_layer_norm", added)
    assert model.encode_image(IMAGES, BF16).dtype == BF16
    assert seen == [(BF16, BF16, BF16), (F32,), (F32,)] * 2


@torch.no_grad()
def test_other_sizes_and_batches_have_small_errors() -> None:
    model = small_vit()
    for side in (64, 176):  # position tables are resampled
        model.set_image_size(side)
        images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(side)) * 4 - 2
        exact, ours = model.encode_image(images), model.encode_image(images, BF16).float()
        assert (ours - exact).norm() < 0.02 * exact.norm()
        for i in range(3):
            alone = model.encode_image(images[i : i + 1], BF16).float()
            assert (ours[i : i + 1] - alone).norm() < 0.01 * exact[i].norm()


def test_bfloat16_path_is_not_used_with_gradients_autocast_or_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, images: Tensor) -> None:
        raise AssertionError("not in this case")

    monkeypatch.setattr(image_encoder.ImageEncoderViT, "_bfloat16_features", never)
    model = small_vit().bfloat16()
    images = IMAGES.bfloat16()
    model.image_encoder(images).float().sum().backward()  # with gradients
    with torch.no_grad():
        with torch.autocast("cpu", BF16):
            model.image_encoder(images)
        hooked, calls = copy.deepcopy(model), list[int]()
        hooked.image_encoder.blocks[1].mlp.lin1.register_forward_hook(lambda *_: calls.append(1))
        hooked.image_encoder(images)
        assert calls == [1]
        with pytest.raises(AssertionError, match="not in this case"):
            model.image_encoder(images)


def test_predictions_in_bfloat16(fast: None) -> None:
    predictor = Predictor(overrides={"model": small_vit(), **QUIET})
    predictor.set_image(bgr_image(60, 90))
    features, wanted = predictor.features, predictor(bboxes=BOXES)[0]
    ours = predictor(bboxes=BOXES, dtype="bfloat16")[0]
    assert predictor.features.dtype == F32 and not torch.equal(predictor.features, features)
    assert torch.equal(predictor.features, predictor.features.bfloat16().float()), "the encoder's, in bfloat16"
    prepared = predictor.current_image.prepared(predictor.model, BF16)
    assert (prepared.dtype, prepared.matrices) == (F32, BF16), "the decoder's operations are in float32"
    assert (dense(ours) == dense(wanted)).mean() > 0.97
    assert len(predictor(**FEW, dtype="bfloat16")[0]) > 0
    assert predictor(bboxes=BOXES)[0].masks.rle == wanted.masks.rle, "float32 is as before"
