"""Attention windows for training on images smaller than a model's input."""

from __future__ import annotations

import torch
from torch import nn

from ..models.tiny_vit import Attention, TinyViT


def shrink_windows(encoder: nn.Module, size: int) -> None:
    """Shrink the attention windows of a `TinyViT` to at most the grid at `size` pixels. Other encoders are unchanged.

    A window larger than the grid is filled with padding tokens, which take part in its softmax. At the model's input
    size there is no such padding, so training at a smaller size should have little of it. The shrunk windows index the
    attention biases of the full window, so these are what is trained.
    """
    if not isinstance(encoder, TinyViT):
        return
    for stage, layer in enumerate(encoder.layers):
        grid = size // min(4 << stage, 16)
        for module in layer.modules():
            if isinstance(module, Attention):
                _set_window(module, min(round(module.attention_biases.shape[1] ** 0.5), grid))


def _set_window(attention: Attention, window: int) -> None:
    position = torch.arange(window, device=attention.bias_index.device)
    y, x = (axis.flatten() for axis in torch.meshgrid(position, position, indexing="ij"))
    full_window = round(attention.attention_biases.shape[1] ** 0.5)
    attention.window_size = window
    attention.bias_index = (y[:, None] - y).abs() * full_window + (x[:, None] - x).abs()
