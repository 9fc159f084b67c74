"""TinyViT, the image encoder of MobileSAM: convolutions first, then windowed attention.

Architecture: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (2022), with the last
stage kept at stride 16 as in Zhang et al., "Faster Segment Anything" (2023). Parameter names are MobileSAM's; the
classifier tensors of its checkpoint (`norm_head`, `head`) are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops._attention.reference import windowed_attention as windowed_attention_in_torch
from ..ops._native_cuda import falls_back_to_pytorch, unvalidated_disabled_reason
from ..ops._threads import native_threads
from .common import neck, neck_channels_last
from .module_cache import cached, is_capturing, is_immutable, modules_of, synchronize, version_of
from .native import (
    can_use_cuda_kernels,
    can_use_native,
    is_eager_inference,
    is_plain,
    is_unmodified,
    record_layer_types,
    watch_methods,
)
from .tiny_vit_gpu import (
    ConvStep,
    InferencePlan,
    TransformerBlock,
    TransformerStage,
    WeightAndBias,
    fold_input_bias,
    layer_norm_args,
    to_tap_major,
)

HALF = (torch.float16, torch.bfloat16)


# Arguments of MobileSAM's class: those with the only value that this one supports, and those that are ignored.
_FIXED_SETTINGS = {
    **{"in_chans": 3, "mlp_ratio": 4, "mbconv_expand_ratio": 4, "local_conv_size": 3},
    **{"drop_rate": 0, "drop_path_rate": 0, "use_checkpoint": False},
}
_IGNORED_SETTINGS = ("num_classes", "layer_lr_decay")


class TinyViT(nn.Module):
    """Encode normalised images (B, 3, S, S) to embeddings (B, out_channels, S / 16, S / 16).

    The other arguments of MobileSAM's class are accepted as keywords, if they have the values of its model. Raises
    ValueError for other values and TypeError for other names.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        *,
        out_channels: int = 256,
        img_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        for name, value in settings.items():
            if name not in (*_FIXED_SETTINGS, *_IGNORED_SETTINGS):
                raise TypeError(f"TinyViT has no argument {name!r}")
            if value != _FIXED_SETTINGS.get(name, value):
                raise ValueError(f"{name} must be {_FIXED_SETTINGS[name]}, not {value!r}")
        if img_size is not None:
            self.img_size = img_size
        self.patch_embed = PatchEmbed(embed_dims[0])
        self.layers = nn.ModuleList()
        for i, (dim, depth, heads, window) in enumerate(zip(embed_dims, depths, num_heads, window_sizes, strict=True)):
            blocks: list[nn.Module] = [
                MBConv(dim) if i == 0 else TinyViTBlock(dim, heads, window) for _ in range(depth)
            ]
            # Strides 4, 8, 16 and again 16, so that the embedding has the grid that the mask decoder expects.
            downsample = PatchMerging(dim, embed_dims[i + 1], stride=1 if i == 2 else 2) if i < 3 else None
            self.layers.append(Stage(blocks, downsample))
        self.neck = neck(embed_dims[-1], out_channels)
        record_layer_types(self)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load all but the tensors of a classifier, which MobileSAM's checkpoints have and nothing uses."""
        for key in [key for key in state_dict if key.startswith((f"{prefix}norm_head.", f"{prefix}head."))]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, images: Tensor) -> Tensor:
        if can_use_native(images, *self.patch_embed.parameters()) and self._is_evaluating() and is_unmodified(self):
            with native_threads():
                return self._infer(images)
        if images.dtype in HALF and self._runs_on_gpu(images):
            return self._infer_on_gpu(images)
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)

    def _is_evaluating(self) -> bool:
        """Return whether no layer is in training mode.

        There batch normalisation depends on the batch, so it can't be folded into the convolutions.
        """
        if self.training or not is_immutable(self):
            return not any(part.training for part in modules_of(self))
        return cached(self, "evaluating", lambda: not any(part.training for part in modules_of(self)))

    def _infer(self, images: Tensor) -> Tensor:
        """Compute `forward` with native operations, channels last from the first convolution to the neck."""
        x = self.patch_embed.infer(images)
        for layer in self.layers:
            x = cast(Stage, layer).infer(x)
        return neck_channels_last(self.neck, x)

    def _runs_on_gpu(self, images: Tensor) -> bool:
        """Return whether to use `_infer_on_gpu`: inference with the CUDA kernels, without foreign layers or hooks."""
        if (
            not is_eager_inference()
            or torch.is_autocast_enabled("cuda")
            or not can_use_cuda_kernels(images)
            or not self._is_evaluating()
            or not is_plain(self)
        ):
            return False
        if falls_back_to_pytorch(unvalidated_disabled_reason()):
            return False
        weight = cast(ConvNorm, self.patch_embed.seq[0]).c.weight
        # Nothing can be cached for inference tensors, whose changes PyTorch doesn't count.
        return weight.dtype == images.dtype and (is_immutable(self) or not weight.is_inference())

    def _infer_on_gpu(self, images: Tensor) -> Tensor:
        """Compute `forward` with few launches and without calling modules."""
        return cached(self, "plan", self._build_plan, if_versioned=True).run(images)

    def _build_plan(self) -> InferencePlan:
        """Build the plan for `_infer_on_gpu`. Biases that a step leaves out are folded into the step after it."""
        (stem_conv1, stem_bias1), (stem_conv2, stem_bias2) = self.patch_embed.folded()
        pending_bias: Tensor | None = stem_bias2  # bias that the next step's input lacks
        steps: list[ConvStep | TransformerStage] = []
        for layer in self.layers:
            stage = cast(Stage, layer)
            if blocks := [block.plan() for block in stage.blocks if isinstance(block, TinyViTBlock)]:
                steps.append(TransformerStage(blocks))
                pending_bias = blocks[-1].fc2[1]
            conv_blocks = [
                block for block in (*stage.blocks, stage.downsample) if isinstance(block, MBConv | PatchMerging)
            ]
            for block in conv_blocks:
                steps.append(block.plan().fold_input_bias(pending_bias))
                pending_bias = None
        neck_conv1, neck_conv2 = (cast(nn.Conv2d, self.neck[i]).weight for i in (0, 2))
        return InferencePlan(
            *((_channels_last(stem_conv1), stem_bias1), _channels_last(stem_conv2), steps),
            *(
                fold_input_bias(pending_bias, (neck_conv1.flatten(1), torch.zeros_like(neck_conv1[:, 0, 0, 0]))),
                layer_norm_args(self.neck[1]),
            ),
            *(_channels_last(neck_conv2), layer_norm_args(self.neck[3])),
        )


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm (`c` and `bn` are the checkpoint's names)."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the single convolution that both layers form in evaluation mode.

        They are computed in at least float32 and rounded once to the dtype of the convolution's weight, since half
        precision can't represent all intermediate values.
        """
        dtype = self.c.weight.dtype
        compute_dtype = torch.promote_types(dtype, torch.float32)
        mean, variance = (
            cast(Tensor, self.bn.running_mean).to(compute_dtype),
            cast(Tensor, self.bn.running_var).to(compute_dtype),
        )
        scale = self.bn.weight.to(compute_dtype) * torch.rsqrt(variance + self.bn.eps)  # (out_dim,)
        weight, bias = self.c.weight * scale[:, None, None, None], self.bn.bias.to(compute_dtype) - mean * scale
        return weight.to(dtype), bias.to(dtype)


class PatchEmbed(nn.Module):
    """Two 3 x 3 convolutions with stride 2 each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, dim // 2, 3, stride=2), nn.GELU(), ConvNorm(dim // 2, dim, 3, stride=2))

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, C, S / 4, S / 4)
        return self.seq(images)

    def infer(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, S / 4, S / 4, C)
        first, second = self.folded()
        return ops.conv_stem(images, *first, *second)

    def folded(self) -> tuple[WeightAndBias, WeightAndBias]:
        """Return weight and bias of both convolutions, with BatchNorm folded in."""
        first, second = cast(ConvNorm, self.seq[0]), cast(ConvNorm, self.seq[2])
        return first.folded(), second.folded()


class Stage(nn.Module):
    """Blocks of one resolution, then an optional downsampling."""

    def __init__(self, blocks: list[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)

    def infer(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        for block in self.blocks:
            x = cast(MBConv | TinyViTBlock, block).infer(x)
        return x if self.downsample is None else self.downsample.infer(x)


class MBConv(nn.Module):
    """Inverted residual block: expand the channels, convolve each in space, project back."""

    def __init__(self, dim: int, expand_ratio: int = 4) -> None:
        super().__init__()
        hidden = dim * expand_ratio
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(hidden))

    def infer(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> same
        return ops.mbconv(x, *_mbconv_weights(self.conv1, self.conv2, self.conv3), residual=True)

    def plan(self) -> ConvStep:
        return _conv_step(self.conv1, self.conv2, self.conv3, residual=True)


class PatchMerging(nn.Module):
    """Convolutions that change the width and, with stride 2, halve the resolution."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, 3, stride=stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, out_dim, H / stride, W / stride)
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))

    def infer(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> (B, H / stride, W / stride, out_dim)
        return ops.mbconv(x, *_mbconv_weights(self.conv1, self.conv2, self.conv3), stride=self.conv2.c.stride[0])

    def plan(self) -> ConvStep:
        return _conv_step(self.conv1, self.conv2, self.conv3, residual=False)


def _mbconv_weights(
    expand: ConvNorm, depthwise: ConvNorm, project: ConvNorm
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the weights of `ops.mbconv`: the folded convolutions without their kernel or channel axes of size 1."""
    (w1, b1), (w2, b2), (w3, b3) = expand.folded(), depthwise.folded(), project.folded()
    return w1.flatten(1), b1, w2[:, 0], b2, w3.flatten(1), b3


def _conv_step(expand: ConvNorm, depthwise: ConvNorm, project: ConvNorm, *, residual: bool) -> ConvStep:
    """Return the folded weights of an inverted residual or a merging as `_infer_on_gpu` takes them."""
    w1, b1, w2, b2, w3, b3 = _mbconv_weights(expand, depthwise, project)
    stride = depthwise.c.stride[0]
    return ConvStep((w1, b1), (to_tap_major(w2), b2), (w3, b3), stride, residual)


class TinyViTBlock(nn.Module):
    """Attention in windows, a depthwise convolution across their borders, then an MLP."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads, window_size)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        x = x + self.attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def infer(self, x: Tensor) -> Tensor:  # (B, H, W, C), which it overwrites, -> same
        self.attn.add_to(x)
        weight, bias = self.local_conv.folded()
        x = ops.depthwise3x3(x, weight[:, 0], bias)
        self.mlp.add_to(x)
        return x

    def plan(self) -> TransformerBlock:
        """Return the block's weights as `_infer_on_gpu` takes them."""
        attn, mlp = self.attn, self.mlp
        (weight, bias), padding = self.local_conv.folded(), F.linear(attn.norm.bias, attn.qkv.weight, attn.qkv.bias)
        return TransformerBlock(
            *(
                layer_norm_args(attn.norm),
                (attn.qkv.weight, attn.qkv.bias),
                attn._window_bias(),
                attn.window_size,
                padding,
            ),
            *((attn.proj.weight, attn.proj.bias), (to_tap_major(weight[:, 0]), bias), layer_norm_args(mlp.norm)),
            *((mlp.fc1.weight, mlp.fc1.bias), (mlp.fc2.weight, mlp.fc2.bias)),
        )


class Mlp(nn.Module):
    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))

    def add_to(self, x: Tensor) -> None:
        """Add `forward(x)` to `x` (B, H, W, C) in place, with native operations."""
        norm, fc1, fc2 = self.norm, self.fc1, self.fc2
        ops.mlp_into(x, x, norm.weight, norm.bias, norm.eps, fc1.weight, fc1.bias, fc2.weight, fc2.bias)


class Attention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias per head and distance."""

    bias_index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size * window_size))
        y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
        y, x = y.flatten(), x.flatten()
        distance = (y[:, None] - y).abs() * window_size + (x[:, None] - x).abs()
        self.register_buffer("bias_index", distance, persistent=False)  # (window**2, window**2)
        self._cached_bias: tuple[tuple[Any, ...], Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C) -> same
        return self.proj(self._attend(self.qkv(self.norm(x))))

    def add_to(self, x: Tensor) -> None:
        """Add `forward(x)` to `x` (B, H, W, C) in place, with native operations."""
        norm = self.norm
        qkv = ops.linear(x, self.qkv.weight, self.qkv.bias, "none", norm.weight, norm.bias, norm.eps)
        ops.linear_into(x, self._attend(qkv), self.proj.weight, self.proj.bias, residual=x)

    def _window_bias(self) -> Tensor:
        """Return the bias of each pair of positions in a window, (heads, window**2, window**2).

        Without gradients it is cached for the next call: for a window of 32 with eight heads it has eight million
        numbers, which take longer to gather than the attention itself.
        """
        table, index = self.attention_biases, self.bias_index
        is_versioned = table.is_cpu or not table.is_inference()
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing() or not is_versioned:
            # `gather` rather than `table[:, index]`, whose backward pass sorts the index first.
            return table.gather(1, index.flatten().expand(len(table), -1)).view(len(table), *index.shape)
        key = (table.data_ptr(), version_of(table), table.dtype, table.device, index.data_ptr(), index.shape)
        # PyTorch doesn't count changes through `.data`, which are common when models are averaged, so on the CPU the
        # values are compared as well. On a GPU that would have to wait for it.
        entry = self._cached_bias
        if entry is None or entry[0] != key or (table.is_cpu and not torch.equal(table, entry[2])):
            new_entry = key, table.detach()[:, index], table.detach().clone()
            if is_capturing():
                return new_entry[1]
            synchronize(table)
            if self._cached_bias is not entry:  # another thread's: kernels on its stream, or a CUDA graph, may read it
                return new_entry[1]
            self._cached_bias = entry = new_entry
        return entry[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what can be recomputed."""
        return {**self.__dict__, "_cached_bias": None}

    def _attend(self, qkv: Tensor) -> Tensor:  # (B, H, W, heads * 3 * d) -> (B, H, W, heads * d)
        # The reference pads with zeros before the norm, so a padding token enters the projection as the norm's bias.
        if type(self.qkv) is nn.Linear:
            padding = F.linear(self.norm.bias, self.qkv.weight, self.qkv.bias)
        else:  # e.g. an adapter, which may lack weights of these names
            padding = self.qkv(self.norm.bias.view(1, 1, 1, -1)).flatten()
        bias = self._window_bias()
        # Unlike in SAM's ViT, q, k and v of one head are adjacent.
        tensors = qkv, bias, padding
        attend = (
            ops.windowed_attention
            if can_use_native(*tensors) or can_use_cuda_kernels(*tensors)
            else windowed_attention_in_torch
        )
        return attend(qkv, bias, self.window_size, padding)


watch_methods(TinyViT, ConvNorm, PatchEmbed, Stage, MBConv, PatchMerging, TinyViTBlock, Mlp, Attention)
