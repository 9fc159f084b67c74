"""Dense loss on the image embedding: where regions end, and which pixels belong to the same object.

A prompt trains on one object, this loss on all objects of an image at once. Its layer exists only during training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEATURES = 16  # length of the feature vector that says which object a cell belongs to
_PLACES = 192  # cells per image that are compared pairwise


class DenseHead(nn.Module):
    """Layer that predicts a boundary map and feature vectors at stride 4 from an embedding (B, C, g, g)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels, (1 + _FEATURES) * 16, 1)
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
        edge = torch.zeros_like(logits)
        edge[:, :, :-1] = (cells[..., 1:] != cells[..., :-1]).any(1).float()
        edge[:, :-1] = torch.maximum(edge[:, :-1], (cells[:, :, 1:] != cells[:, :, :-1]).any(1).float())
        entropy = F.binary_cross_entropy_with_logits(logits, edge, reduction="none")
        on, off = edge.sum().clamp(min=1), (1 - edge).sum().clamp(min=1)
        return 0.5 * ((entropy * edge).sum() / on + (entropy * (1 - edge)).sum() / off)

    def _affinity_loss(self, features: Tensor, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Return the balanced cross-entropy of whether pairs of random cells show the same object.

        features: (B, F, h, w); cells: (B, h, w), object numbers. Pairs with no object at either cell don't count.
        """
        batch, _, height, width = features.shape
        places = torch.randint(height * width, (batch, _PLACES), generator=generator, device=cells.device)
        names = cells.flatten(1).gather(1, places)  # (B, P)
        seen = features.flatten(2).gather(2, places[:, None].expand(-1, features.shape[1], -1))  # (B, F, P)
        seen = F.normalize(seen, dim=1)
        logits = self.scale * (seen.transpose(1, 2) @ seen) + self.bias
        labelled = names > 0
        counts = (labelled[:, :, None] | labelled[:, None]).float()
        counts = counts * (1 - torch.eye(_PLACES, device=cells.device))
        same = (names[:, :, None] == names[:, None]).float() * counts
        entropy = F.binary_cross_entropy_with_logits(logits, (same > 0).float(), reduction="none")
        other = counts - same
        alike = (entropy * same).sum() / same.sum().clamp(min=1)
        return 0.5 * (alike + (entropy * other).sum() / other.sum().clamp(min=1))
