"""Dense loss on the image embedding: where regions end, and which pixels belong to the same object.

A prompt trains on one object, this loss on all objects of an image at once. Its layer exists only during training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NUM_FEATURES = 16  # length of the feature vector that says which object a cell belongs to
_NUM_SAMPLES = 192  # cells per image that are compared pairwise


class DenseHead(nn.Module):
    """Layer that predicts a boundary map and feature vectors at stride 4 from an embedding (B, C, g, g)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels, (1 + _NUM_FEATURES) * 16, 1)
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, embedding: Tensor, planes: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss. planes: (B, K, 16 g, 16 g) uint8; the first plane holds the objects."""
        maps = F.pixel_shuffle(self.read(embedding).float(), 4)  # (B, 1 + F, 4 g, 4 g)
        cells = planes[:, :, 2::4, 2::4]
        return self._boundary_loss(maps[:, 0], cells) + self._affinity_loss(maps[:, 1:], cells[:, 0], generator)

    @staticmethod
    def _boundary_loss(logits: Tensor, cells: Tensor) -> Tensor:
        """Return the balanced cross-entropy of boundary logits (B, h, w) with the boundaries of cells (B, K, h, w).

        A cell is on a boundary if its right or lower neighbour differs in any plane.
        """
        boundary = torch.zeros_like(logits)
        boundary[:, :, :-1] = (cells[..., 1:] != cells[..., :-1]).any(1).float()
        boundary[:, :-1] = torch.maximum(boundary[:, :-1], (cells[:, :, 1:] != cells[:, :, :-1]).any(1).float())
        entropy = F.binary_cross_entropy_with_logits(logits, boundary, reduction="none")
        num_boundary, num_other = boundary.sum().clamp(min=1), (1 - boundary).sum().clamp(min=1)
        return 0.5 * ((entropy * boundary).sum() / num_boundary + (entropy * (1 - boundary)).sum() / num_other)

    def _affinity_loss(self, features: Tensor, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Return the balanced cross-entropy of whether pairs of random cells show the same object.

        features: (B, F, h, w); cells: (B, h, w), object numbers. Pairs with no object at either cell don't count.
        """
        batch, _, height, width = features.shape
        sampled = torch.randint(height * width, (batch, _NUM_SAMPLES), generator=generator, device=cells.device)
        region_ids = cells.flatten(1).gather(1, sampled)  # (B, P)
        vectors = features.flatten(2).gather(2, sampled[:, None].expand(-1, features.shape[1], -1))  # (B, F, P)
        vectors = F.normalize(vectors, dim=1)
        logits = self.scale * (vectors.transpose(1, 2) @ vectors) + self.bias
        labelled = region_ids > 0
        is_counted = (labelled[:, :, None] | labelled[:, None]).float()
        is_counted = is_counted * (1 - torch.eye(_NUM_SAMPLES, device=cells.device))
        same_region = (region_ids[:, :, None] == region_ids[:, None]).float() * is_counted
        entropy = F.binary_cross_entropy_with_logits(logits, (same_region > 0).float(), reduction="none")
        different_region = is_counted - same_region
        same_loss = (entropy * same_region).sum() / same_region.sum().clamp(min=1)
        return 0.5 * (same_loss + (entropy * different_region).sum() / different_region.sum().clamp(min=1))
