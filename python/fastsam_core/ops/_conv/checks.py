"""Input checks shared by all siblings of the convolutions and their fakes.

A function that is named after an operation checks its arguments and returns the shape of its result; ValueError if they
don't fit.
"""

from __future__ import annotations

from torch import Tensor

Shape = tuple[int, int, int, int]


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Shape:
    check_images("x", x, channels_last=True)
    check_stride(stride)
    check_weight("weight", weight, (None, x.shape[3], 3, 3), x)
    check_weight("bias", bias, (weight.shape[0],), x)
    return result_shape(x, stride, weight.shape[0])


def conv_stem(
    images: Tensor, first_weight: Tensor, first_bias: Tensor, second_weight: Tensor, second_bias: Tensor
) -> Shape:
    check_images("images", images, channels_last=False)
    check_weight("first_weight", first_weight, (None, images.shape[1], 3, 3), images)
    hidden = first_weight.shape[0]
    check_weight("first_bias", first_bias, (hidden,), images)
    check_weight("second_weight", second_weight, (None, hidden, 3, 3), images)
    check_weight("second_bias", second_bias, (second_weight.shape[0],), images)
    batch, _, height, width = images.shape
    return batch, -(-height // 4), -(-width // 4), second_weight.shape[0]


def depthwise3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int, shift: Tensor | None = None) -> Shape:
    check_images("x", x, channels_last=True)
    check_stride(stride)
    check_weight("weight", weight, (x.shape[3], 3, 3), x)
    check_weight("bias", bias, (x.shape[3],), x)
    if shift is not None:
        check_weight("shift", shift, (x.shape[3],), x)
    return result_shape(x, stride, x.shape[3])


def mbconv(
    x: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    stride: int,
    residual: bool,
) -> Shape:
    check_images("x", x, channels_last=True)
    check_stride(stride)
    check_weight("expand_weight", expand_weight, (None, x.shape[3]), x)
    hidden = expand_weight.shape[0]
    check_weight("expand_bias", expand_bias, (hidden,), x)
    check_weight("depthwise_weight", depthwise_weight, (hidden, 3, 3), x)
    check_weight("depthwise_bias", depthwise_bias, (hidden,), x)
    check_weight("project_weight", project_weight, (None, hidden), x)
    out_channels = project_weight.shape[0]
    check_weight("project_bias", project_bias, (out_channels,), x)
    if residual and (stride != 1 or out_channels != x.shape[3]):
        raise ValueError(
            "a residual needs stride 1 and as many channels out as in; "
            f"got stride {stride}, {x.shape[3]} channels in and {out_channels} out"
        )
    return result_shape(x, stride, out_channels)


def check_images(name: str, images: Tensor, *, channels_last: bool) -> None:
    """Raise ValueError unless `images` is 4-D and floating-point; only the batch may be empty."""
    layout = "(B, H, W, C)" if channels_last else "(B, C, H, W)"
    if images.dim() != 4 or min(images.shape[1:]) < 1:
        given = tuple(images.shape)
        raise ValueError(f"{name} must have shape {layout} with at least one pixel and channel; got {given}")
    if not images.is_floating_point():
        raise ValueError(f"{name} must be floating-point, not {images.dtype}")


def check_stride(stride: int) -> None:
    """Raise ValueError unless `stride` is 1 or 2."""
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2; got {stride}")


def check_weight(name: str, weight: Tensor, shape: tuple[int | None, ...], images: Tensor) -> None:
    """Raise ValueError unless `weight` has `shape` (None: any size but 0) and the dtype and device of `images`."""
    fits = weight.dim() == len(shape) and all(
        size > 0 if wanted is None else size == wanted for size, wanted in zip(weight.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wanted}); got {tuple(weight.shape)}")
    if weight.dtype != images.dtype or weight.device != images.device:
        raise ValueError(
            f"{name} is {weight.dtype} on {weight.device}, the images are {images.dtype} on {images.device}; "
            "they must be the same"
        )


def result_shape(x: Tensor, stride: int, channels: int) -> Shape:
    """Return the shape of the result of a 3 x 3 convolution with padding 1 over `x` (B, H, W, C)."""
    return x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), channels
