"""Tests of which operations the encoders launch on a GPU, and of the memory layout of their inputs.

CPU tensors take the path of GPU tensors here. They are float16, which the operations for CPUs don't take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from decoder_arguments import randomised
from fastsam_core import doctor, ops
from fastsam_core.models import image_encoder, registry, tiny_vit, vit_block
from fastsam_core.models.image_encoder import ImageEncoderViT, PatchEmbed, sam_vit
from fastsam_core.models.native import is_plain
from fastsam_core.models.vit_block import Block
from fastsam_core.ops import _native_cuda
from fastsam_core.ops._conv import cuda as conv_on_gpu

DTYPE = torch.float16
DEPTH = 12
# Views launch no kernel.
VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "unfold", "slice", "expand", "detach", "alias"}
# On strided input these are slow, or copy it first.
IN_ORDER = {"native_layer_norm", "add_norm_into", "addmm", "add", "add_", "gelu", "gelu_", "attention"}


class Watch(TorchDispatchMode):
    """Counts operations by name, and records the operations of IN_ORDER that got a non-contiguous tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.strided = Counter[str](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        activations = [arg for arg in args if isinstance(arg, Tensor) and not isinstance(arg, nn.Parameter)]
        # The weight of a linear layer is transposed, which costs nothing.
        given = activations[:1] if name == "addmm" else activations
        if name in IN_ORDER and not all(tensor.is_contiguous() for tensor in given):
            self.strided.append(name)
        return func(*args, **(kwargs or {}))

    def launches(self) -> Counter[str]:
        return Counter({name: count for name, count in self.counts.items() if name not in VIEWS})


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> ImageEncoderViT:
    """An encoder as deep as ViT-B whose attention is one cheap operation in place of the kernel."""
    torch.manual_seed(0)
    made = randomised(sam_vit(32, DEPTH, 2, (2, 5, 8, 11), img_size=96, window_size=4, out_chans=8))

    def attention(qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, heads: int, *window: Any) -> Tensor:
        assert qkv.is_contiguous() and rel_pos_h.dtype == rel_pos_w.dtype == qkv.dtype
        return torch.tanh(qkv.view(*qkv.shape[:3], 3, -1).sum(3))

    monkeypatch.setattr(ops, "attention", attention)
    monkeypatch.setattr(image_encoder, "can_use_cuda_kernels", lambda *tensors: True)
    monkeypatch.setattr(vit_block, "can_use_cuda_kernels", lambda *tensors: True)
    assert isinstance(made, ImageEncoderViT)
    return made.eval().to(DTYPE)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)).to(DTYPE)


@torch.no_grad()
def test_vit_block_makes_eight_launches(encoder: ImageEncoderViT, images: Tensor) -> None:
    with Watch() as watch:
        encoder(images)
    attention = {"sum": DEPTH, "tanh": DEPTH}
    # A block has two sums, each fused with the LayerNorm after it, four linear layers, a GELU and its attention. The
    # first LayerNorm has no sum before it, and the last sum no LayerNorm after it. The neck has two LayerNorms and two
    # convolutions. The patch embedding has one convolution, whose result is copied before the positions are added.
    ours = {"add_norm_into": 2, "addmm": 4, "gelu_": 1}
    expected = {name: DEPTH * count for name, count in ours.items()} | attention
    expected["add_norm_into"] -= 1
    others = {"native_layer_norm": 3, "add_": 1, "convolution": 3, "clone": 1, "add": 1}
    assert watch.launches() == Counter({**expected, **others})
    # One before and one after each attention, and one in its stand-in; linear layers, which take rows, need none.
    assert watch.counts["view"] == 3 * DEPTH + 1


@pytest.mark.parametrize(("name", "blocks", "convolutions"), [("sam_nano", 9, 1), ("mobile_sam", 10, 2)])
@torch.no_grad()
def test_tiny_vit_launches(monkeypatch: pytest.MonkeyPatch, name: str, blocks: int, convolutions: int) -> None:
    model = registry.build(name).image_encoder.eval().to(DTYPE)
    images = torch.randn(1, 3, 64, 64).to(DTYPE)
    monkeypatch.setattr(tiny_vit, "can_use_cuda_kernels", lambda *tensors: True)
    plan = model._build_plan()
    monkeypatch.setattr(model, "_build_plan", lambda: plan)
    with Watch() as watch:
        model(images)
    mixes = convolutions + 3  # 3 between stages
    # A block has two LayerNorms, four linear layers, one of them fused with a sum, attention, a convolution, a GELU and
    # another sum. That is fused with the next block's LayerNorm or, in the last block of each of three stages, with a
    # matrix product.
    together = blocks - 3
    expected = {
        "native_layer_norm": 2 * blocks + 2 - together,
        "add_norm_into": together,
        "linear": 3 * blocks - 3 + 2 * mixes + 1,
        "addmm_": blocks + 3,
        "windowed_attention": blocks,
        "depthwise3x3": blocks + mixes,
        "gelu_": blocks + mixes + convolutions + 1,
        "add_": convolutions,
        "convolution": 3,
    }
    launches = watch.launches()
    launches["linear"] = launches.pop("addmm", 0) + launches.pop("mm", 0)
    assert launches == Counter(expected)
    # Views as rows: one per stage, three per block, and two per linear layer between convolutions.
    assert watch.counts["view"] == 3 * (blocks + 1) + 2 * (2 * mixes + 1)


@torch.no_grad()
def test_unvalidated_kernels_are_opt_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano").image_encoder.eval().to(DTYPE)
    monkeypatch.setattr(tiny_vit, "can_use_cuda_kernels", lambda *tensors: True)
    assert model._runs_on_gpu(torch.randn(1, 3, 64, 64).to(DTYPE))
    assert not conv_on_gpu.why_not("depthwise3x3", torch.empty(1, dtype=DTYPE))
    monkeypatch.setattr(_native_cuda, "use_unvalidated", False)
    with Watch() as watch:
        model(torch.randn(1, 3, 64, 64).to(DTYPE))
    assert "depthwise3x3" not in watch.launches()
    assert "not yet validated on a GPU" in conv_on_gpu.why_not("depthwise3x3", torch.empty(1, dtype=DTYPE))
    assert "FASTSAM_CUDA_KERNELS=1 uses them" in doctor.collect()["cuda"]["unvalidated"]


@pytest.mark.parametrize("why", ["", "no bias", "autocast", "the last", "CPU"])
@torch.no_grad()
def test_sum_is_fused_with_layer_norm_only_on_a_gpu(why: str) -> None:
    norm = randomised(nn.LayerNorm(32, bias=why != "no bias"))
    x, delta = torch.randn(2, 3, 4, 32), torch.randn(2, 3, 4, 32)
    if why == "autocast":
        delta = delta.half()
    expected = x + delta
    with Watch() as watch:
        of_norm = None if why == "the last" else image_encoder._Norm(norm.weight, norm.bias, norm.eps)
        result = image_encoder._add_layer_norm(x, delta, of_norm, on_gpu=why != "CPU")
    assert torch.equal(x, expected) and torch.equal(result, x if why == "the last" else norm(x))
    assert watch.counts["add_norm_into"] == (why == "")


@pytest.mark.parametrize("size", [96, 64, 112])
@pytest.mark.parametrize("gradients", [False, True])
def test_tokens_stay_contiguous(encoder: ImageEncoderViT, images: Tensor, gradients: bool, size: int) -> None:
    images = images.repeat(1, 1, 2, 2)[..., :size, :size]
    lie: list[bool] = []
    handles = [
        part.register_forward_hook(lambda module, inputs, output: lie.append(output.is_contiguous()))
        for part in encoder.modules()
        if isinstance(part, (PatchEmbed, Block, nn.LayerNorm, nn.Linear))
    ]
    with torch.set_grad_enabled(gradients), Watch() as watch:
        encoder(images)
    assert lie and all(lie)
    for handle in handles:
        handle.remove()
    with torch.set_grad_enabled(gradients), Watch() as watch:
        result = encoder(images)
    # The neck's last LayerNorm may get the memory layout of its convolutions.
    assert watch.strided[:-1] == [] and watch.strided in ([], ["native_layer_norm"])
    assert result.shape == (2, 8, size // 16, size // 16)


def test_fast_path_equals_calling_the_modules(encoder: ImageEncoderViT, images: Tensor) -> None:
    with torch.no_grad():
        short = encoder(images)
        kept = images.clone()
        # A hook on one layer makes the encoder call all layers as modules.
        handle = encoder.blocks[3].mlp.lin1.register_forward_hook(lambda *_: None)
        assert torch.equal(encoder(images), short)
        handle.remove()
    assert torch.equal(encoder(images), short)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("how", ["hook", "pre-hook", "global hook", "identity", "subclass", "forward"])
@torch.no_grad()
def test_altered_layers_are_called(encoder: ImageEncoderViT, images: Tensor, how: str) -> None:
    block, called = encoder.blocks[7], []
    norm = block.norm2

    class Norm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            called.append("subclass")
            return super().forward(x)

    class Nothing(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            called.append("identity")
            return x

    handles = []
    if how == "hook":
        handles.append(norm.register_forward_hook(lambda *_: called.append(how)))
    elif how == "pre-hook":
        handles.append(norm.register_forward_pre_hook(lambda *_: called.append(how)))
    elif how == "global hook":
        hook: Callable[..., None] = lambda module, *_: called.append(how) if module is norm else None  # noqa: E731
        handles.append(nn.modules.module.register_module_forward_hook(hook))
    elif how == "identity":
        block.norm2 = Nothing()
    elif how == "subclass":
        block.norm2 = Norm(32).to(DTYPE)
    else:
        usual = norm.forward
        norm.forward = lambda x: called.append(how) or usual(x)
    try:
        encoder(images)
    finally:
        for handle in handles:
            handle.remove()
    assert called == [how]
    assert is_plain(encoder) is bool(handles)


@torch.no_grad()
def test_block_replaced_by_a_pytorch_layer_is_called(encoder: ImageEncoderViT, images: Tensor) -> None:
    usual = encoder(images)
    encoder.blocks[1] = nn.Identity()
    assert not torch.equal(encoder(images), usual)


@pytest.mark.parametrize("size", [(96, 96), (64, 112), (100, 39)])
def test_patch_embedding_by_product_equals_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = PatchEmbed(embed_dim=24).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    wanted, given = layer(images), layer.forward_as_matmul(images)
    assert given.shape == (2, size[0] // 16, size[1] // 16, 24) and given.is_contiguous() and wanted.is_contiguous()
    torch.testing.assert_close(given, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(given)
    gradients = [torch.autograd.grad((each * weights).sum(), [images, *layer.parameters()]) for each in (wanted, given)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


def on_gpu(layer: PatchEmbed) -> PatchEmbed:
    """Give the layer fake weights that claim to be on a GPU; call it within a FakeTensorMode."""
    for name, value in layer.proj.named_parameters():
        fake = torch.empty(value.shape, device="cuda", dtype=DTYPE)
        setattr(layer.proj, name, nn.Parameter(fake, requires_grad=False))
    return layer


@pytest.mark.parametrize("altered", ["no", "hook", "stride", "padding", "adapter", "exported"])
def test_gpu_patch_embedding_is_a_product_unless_the_layer_is_altered(
    altered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = PatchEmbed(embed_dim=24)
    if altered == "stride":
        layer.proj = nn.Conv2d(3, 24, 16, stride=8)
    if altered == "padding":
        layer.proj = nn.Conv2d(3, 24, 16, stride=16, padding=8)
    if altered == "adapter":
        layer.proj = type("Adapter", (nn.Conv2d,), {})(3, 24, 16, stride=16)
    if altered == "exported":
        monkeypatch.setattr(image_encoder, "is_exporting", lambda: True)
    if altered == "hook":
        layer.proj.register_forward_hook(lambda *_: None)
    convolved: list[Any] = []

    def conv2d(x: Tensor, *others: Any) -> Tensor:
        convolved.append(others)
        return x.new_empty(1, 4, 4, 24).permute(0, 3, 1, 2)

    monkeypatch.setattr(F, "conv2d", conv2d)  # a PyTorch without CUDA can't convolve such tensors
    with FakeTensorMode(), torch.no_grad():
        on_gpu(layer)
        images = torch.empty(1, 3, 64, 64, device="cuda", dtype=DTYPE)
        with Watch() as watch:
            tokens = layer(images)
    assert tokens.shape == (1, 4, 4, 24) and tokens.is_contiguous() and tokens.device.type == "cuda"
    assert len(convolved) == (altered != "no")
    assert watch.counts["addmm"] == (altered == "no")


@pytest.mark.parametrize("gpu_way", [False, True])
@torch.no_grad()
def test_compiled_encoder_is_one_graph(images: Tensor, monkeypatch: pytest.MonkeyPatch, gpu_way: bool) -> None:
    torch.manual_seed(0)
    model = randomised(sam_vit(32, 2, 2, (1,), img_size=96, window_size=4, out_chans=8)).eval().to(DTYPE)
    if gpu_way:
        monkeypatch.setattr(image_encoder, "can_use_cuda_kernels", lambda *tensors: True)
        monkeypatch.setattr(vit_block, "can_use_cuda_kernels", lambda *tensors: True)
        monkeypatch.setattr(
            PatchEmbed, "forward", lambda self, x: self.has_disjoint_patches() and self.forward_as_matmul(x)
        )
    graphs: list[str] = []

    def backend(graph: Any, given: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(images), model(images), rtol=0, atol=0)
    (code,) = graphs
    assert code.count("torch.ops.fastsam_core.attention") == (2 if gpu_way else 0)
    assert "aten.gelu_" not in code  # in-place operations are for eager mode; the compiler saves memory itself
