"""Prompt encoder: embeds points, boxes and masks (Kirillov et al., "Segment Anything", 2023, appendix A)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from .._log import warn_once
from .common import LayerNorm2d
from .native import (
    can_use_native,
    has_original_forward,
    has_original_methods,
    is_unmodified,
    record_layer_types,
    watch_methods,
)

# Below this many angles, waking PyTorch's threads costs more than computing the embedding of points.
_MIN_THREADED_ANGLES = 1 << 15


class PromptEncoder(nn.Module):
    """Embed prompts that are given in pixels of the model input, whose long side is `image_size`.

    Arguments and defaults are those of Meta's class.

    Args:
        embed_dim: channels of the embeddings.
        image_embedding_size: (height, width) of the image's embedding.
        input_image_size: (height, width) of the model input.
        mask_in_chans: channels of the last hidden layer for mask prompts.
        activation: makes the activations of the layers for mask prompts.

    Raises:
        ValueError: A size that isn't square.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int = 16,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.image_embedding_size = image_embedding_size
        self.input_image_size = input_image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        # In the order of the labels: background click, foreground click, first and second box corner.
        self.num_point_embeddings = 4
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        record_layer_types(self)

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        return self.grid_size, self.grid_size

    @image_embedding_size.setter
    def image_embedding_size(self, size: tuple[int, int]) -> None:
        self.grid_size = _square_side("image_embedding_size", size)
        self.mask_input_size = 4 * self.grid_size, 4 * self.grid_size

    @property
    def input_image_size(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    @input_image_size.setter
    def input_image_size(self, size: tuple[int, int]) -> None:
        self.image_size = _square_side("input_image_size", size)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed N prompts as tokens (N, T, C) and a dense embedding (N, C, grid, grid) for `MaskDecoder.forward`.

        N is 1 if nothing is given.

        Args:
            points: coordinates (N, P, 2) and labels (N, P), as for `sparse`.
            boxes: (N, 4), (N, 1, 4) or (N, 2, 2).
            masks: logits (N, 1, S / 4, S / 4).
        """
        coords, labels = (None, None) if points is None else points
        count = self._get_batch_size(points, boxes, masks)
        dense = self.dense(masks).expand(count, -1, *self.image_embedding_size)
        return self.sparse(coords, labels, boxes).expand(count, -1, -1), dense

    def get_dense_pe(self) -> Tensor:
        """Return the position embedding of the image tokens, (1, C, grid, grid)."""
        return self.pe_layer(self.image_embedding_size)[None]

    def sparse(self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> Tensor:
        """Embed points and boxes as tokens (N, T, C); without either, T is 0 and N is 1.

        points: (N, P, 2) x, y in pixels of the model input.
        labels: (N, P): 1 foreground, 0 background, -1 not a point, 2 and 3 the corners of a box. A point with any other
        label is embedded by its position alone.
        boxes: (N, 4) x1, y1, x2, y2.
        """
        tokens = []
        if points is not None:
            if labels is None:
                raise ValueError("points need labels of shape (N, P)")
            # As in the reference, a prompt of points alone ends with one padding point.
            tokens.append(self._embed_points(points, labels, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        if not tokens:
            return self.no_mask_embed.weight.new_zeros(1, 0, self.embed_dim)
        return torch.cat(tokens, dim=1)

    def dense(self, masks: Tensor | None) -> Tensor:
        """Return what is added to the image embedding: (N, C, grid, grid) for mask logits (N, 1, S / 4, S / 4).

        Without masks it is (1, C, 1, 1), the same for every prompt and position.
        """
        if masks is None:
            return self.no_mask_embed.weight.view(1, -1, 1, 1)
        return self._embed_masks(masks.to(self.no_mask_embed.weight.dtype))

    # The methods that Meta's class consists of, under their names, since tools call and override them.

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """Embed points (N, P, 2) with labels (N, P) as for `sparse`; `pad` appends a padding point's token."""
        tokens = self.embed_points(points, labels)
        if not pad:
            return tokens
        return torch.cat([tokens, self.not_a_point_embed.weight[None].expand(len(tokens), 1, -1)], dim=1)

    def _embed_boxes(self, boxes: Tensor) -> Tensor:  # (N, 4) -> (N, 2, C)
        corners = boxes.reshape(-1, 2, 2)
        return self.embed_points(corners, torch.arange(2, 4, device=boxes.device).expand(len(corners), 2))

    def _embed_masks(self, masks: Tensor) -> Tensor:  # (N, 1, 4 * grid, 4 * grid) -> (N, C, grid, grid)
        embedding: Tensor = self.mask_downscaling(masks)
        return embedding

    def _get_batch_size(self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None) -> int:
        return next((len(x) for x in (points and points[0], boxes, masks) if x is not None), 1)

    def _get_device(self) -> torch.device:
        return self.point_embeddings[0].weight.device  # type: ignore[return-value]

    def has_standard_forward(self) -> bool:
        """Return whether `forward` is nothing but `sparse` and `dense`. If it isn't, that is logged once."""
        if has_original_forward(self, PromptEncoder):
            return True
        warn_once(f"{type(self).__name__} has hooks or another forward: the decoder's plain form takes its embeddings")
        return False

    def has_standard_positions(self) -> bool:
        """Return whether the position embedding of the image tokens depends on the buffer in `pe_layer` alone."""
        return has_original_methods(self, PromptEncoder, "get_dense_pe") and self._has_standard_pe_layer()

    def has_standard_points(self) -> bool:
        """Return whether the tokens of points depend on the points and the weights alone."""
        return has_original_methods(self, PromptEncoder, "_embed_points") and self._has_standard_pe_layer()

    def _has_standard_pe_layer(self) -> bool:
        names = "forward", "forward_with_coords", "_pe_encoding"
        return has_original_methods(self.pe_layer, PositionEmbeddingRandom, *names)

    def has_standard_mask_layers(self) -> bool:
        """Return whether `dense` equals a mix of `mask_hidden_channels` by `mask_projection`."""
        return is_unmodified(self) and has_original_methods(self, PromptEncoder, "dense", "_embed_masks")

    def mask_hidden_channels(self, masks: Tensor) -> Tensor:
        """Return the channels that a mask's embedding is a linear mix of: (N, K, grid, grid).

        masks: logits (N, 1, S / 4, S / 4). The last channel is constant 1.
        """
        channels = self.mask_downscaling[:-1](masks.to(self.no_mask_embed.weight.dtype))
        return torch.cat([channels, torch.ones_like(channels[:, :1])], 1)

    def mask_projection(self) -> Tensor:
        """Return what each of these channels adds to an image token, (K, C).

        The image token already includes the embedding of "no mask", so the constant channel subtracts that.
        """
        last_conv = cast(nn.Conv2d, self.mask_downscaling[-1])
        return torch.cat([last_conv.weight[:, :, 0, 0].T, cast(Tensor, last_conv.bias) - self.no_mask_embed.weight])

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed points (N, P, 2) with labels (N, P), as for `sparse`, as tokens (N, P, C), without a padding point."""
        embeddings = [cast(nn.Embedding, embedding).weight for embedding in self.point_embeddings]
        zero_row = torch.zeros_like(embeddings[0])
        table = torch.cat([self.not_a_point_embed.weight, *embeddings, zero_row])
        # A click names a pixel, whose centre is embedded.
        positions = self.pe_layer.forward_with_coords(points + 0.5, self.input_image_size)
        positions = torch.where((labels == -1)[..., None], torch.zeros_like(positions), positions)
        # Labels other than -1 to 3 select the zero row, which leaves the position alone, as in Meta's implementation.
        row_indices = (labels.long().flatten().clamp(-2, 4) + 1) % 6
        # `index_select` rather than `table[...]`, whose backward pass sorts the labels first.
        return positions + table.index_select(0, row_indices).view(*labels.shape, self.embed_dim)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of positions in [0, 1]**2 (Tancik et al., 2020).

    Arguments and defaults are those of Meta's class. num_pos_feats: number of frequencies, each with a sine and a
    cosine. scale: standard deviation of the frequencies; None or a value below 0 stands for 1.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        scale = 1.0 if scale is None or scale <= 0 else scale
        self.register_buffer("positional_encoding_gaussian_matrix", scale * torch.randn(2, num_pos_feats))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionEmbeddingRandom:
        """Convert as for any module, but stay in float32 when cast to half precision.

        All coordinates are multiplied with the matrix, so they stay in float32 as well.
        """
        old_matrix = self.positional_encoding_gaussian_matrix
        super()._apply(fn, recurse)
        new_matrix = self.positional_encoding_gaussian_matrix
        if new_matrix.dtype in (torch.float16, torch.bfloat16):
            self.positional_encoding_gaussian_matrix = old_matrix.to(new_matrix.device, torch.float32)
        return self

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Embed the centre of each cell of a (height, width) grid: (2 * num_pos_feats, height, width)."""
        device = self.positional_encoding_gaussian_matrix.device
        axes = [(torch.arange(side, dtype=torch.float32, device=device) + 0.5) / side for side in size]
        y, x = torch.meshgrid(*axes, indexing="ij")
        return self._pe_encoding(torch.stack([x, y], dim=-1)).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Embed points (..., 2) x, y in pixels of a (height, width) image: (..., 2 * num_pos_feats)."""
        height, width = image_size
        # A tensor of sizes would have to be copied to the GPU.
        sizes = height if height == width else coords_input.new_tensor([width, height])
        return self._pe_encoding(coords_input / sizes)

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """Embed positions (..., 2) in [0, 1]: (..., 2 * num_pos_feats).

        Small inputs avoid PyTorch's threads when native operations are in use: these threads would spin for
        milliseconds on cores that the native operations need.
        """
        angles = self._angles(coords)
        if angles.numel() >= _MIN_THREADED_ANGLES or not can_use_native(angles):
            return torch.cat([angles.sin(), angles.cos()], dim=-1)
        angles_float64 = angles.numpy().astype(np.float64)
        return torch.from_numpy(np.concatenate([np.sin(angles_float64), np.cos(angles_float64)], -1, dtype=np.float32))

    def _angles(self, positions: Tensor) -> Tensor:
        """Return the angles of the features: (..., 2) -> (..., num_pos_feats)."""
        matrix = self.positional_encoding_gaussian_matrix
        if not torch.is_autocast_enabled(matrix.device.type):
            return 2 * math.pi * ((2 * positions.to(matrix.dtype) - 1) @ matrix)
        # In half precision an angle loses half of its digits, and with them the position.
        with torch.autocast(matrix.device.type, enabled=False):
            return 2 * math.pi * ((2 * positions.to(matrix.dtype) - 1) @ matrix)


watch_methods(PromptEncoder, names=("forward", "dense", "get_dense_pe", "_embed_points", "_embed_masks"))
watch_methods(PositionEmbeddingRandom, names=("forward", "forward_with_coords", "_pe_encoding"))


def _square_side(name: str, size: tuple[int, int]) -> int:
    """Return the side of a square size; ValueError for another shape."""
    height, width = size
    if height != width:
        raise ValueError(f"{name} must be square, not {height} x {width}")
    return int(height)
