"""Input checks shared by all siblings of attention and their fakes: dtypes, shapes and devices."""

from __future__ import annotations

from torch import Tensor


def check_attention(
    qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, num_heads: int, window: int, padding: Tensor | None
) -> int:
    """Check the arguments of `attention` and return the number of channels per head.

    ValueError unless shapes, dtypes and devices fit. The tables must have a vector for each distance within a window,
    or within the grid if `window` is 0.
    """
    dim = _check_qkv(qkv, num_heads, padding)
    if window < 0:
        raise ValueError(f"window must be 0, for the whole grid, or the tokens on a window's side; got {window}")
    _check_table("rel_pos_h", rel_pos_h, window or qkv.shape[1], dim, qkv)
    _check_table("rel_pos_w", rel_pos_w, window or qkv.shape[2], dim, qkv)
    _check_padding(qkv, window, padding)
    return dim


def check_windowed_attention(qkv: Tensor, bias: Tensor, window: int, padding: Tensor | None) -> int:
    """Check the arguments of `windowed_attention` and return the number of channels per head.

    ValueError unless `bias` is (heads, window**2, window**2) and shapes, dtypes and devices fit.
    """
    _check_real("bias", bias, qkv)
    if window < 1:
        raise ValueError(f"window must be the number of tokens on a window's side; got {window}")
    if bias.dim() != 3 or bias.shape[0] < 1 or bias.shape[1:] != (window**2, window**2):
        raise ValueError(f"bias must have shape (heads, {window**2}, {window**2}); got {tuple(bias.shape)}")
    dim = _check_qkv(qkv, bias.shape[0], padding)
    _check_padding(qkv, window, padding)
    return dim


def _check_table(name: str, table: Tensor, side: int, dim: int, qkv: Tensor) -> None:
    _check_real(name, table, qkv)
    distances = max(2 * side - 1, 0)
    if table.shape != (distances, dim):
        raise ValueError(
            f"{name} must have shape ({distances}, {dim}), a vector for each distance between {side} positions; "
            f"got {tuple(table.shape)}"
        )


def _check_qkv(qkv: Tensor, num_heads: int, padding: Tensor | None) -> int:
    """Check `qkv` and `padding`, and return the number of channels per head."""
    if qkv.dim() != 4 or not qkv.is_floating_point():
        raise ValueError(
            f"qkv must be floating point of shape (B, H, W, 3 * heads * d); got {tuple(qkv.shape)} of {qkv.dtype}"
        )
    channels = qkv.shape[3]
    if num_heads < 1 or channels < 1 or channels % (3 * num_heads):
        raise ValueError(f"qkv has {channels} channels, which are not 3 * heads * d for {num_heads} heads")
    if padding is not None:
        _check_real("padding", padding, qkv)
        if padding.shape != (channels,):
            raise ValueError(f"padding must have shape ({channels},), as a token of qkv; got {tuple(padding.shape)}")
    return channels // (3 * num_heads)


def _check_padding(qkv: Tensor, window: int, padding: Tensor | None) -> None:
    height, width = qkv.shape[1:3]
    if padding is None and window and (height % window or width % window):
        raise ValueError(f"windows of {window} extend beyond the {height} x {width} grid; that needs a padding vector")


def _check_real(name: str, tensor: Tensor, qkv: Tensor) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {tensor.dtype}")
    if tensor.device != qkv.device:
        raise ValueError(f"{name} is on {tensor.device}, but qkv is on {qkv.device}; move one of them")
