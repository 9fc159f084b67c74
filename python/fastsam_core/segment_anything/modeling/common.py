"""Common layers under the import path of Meta's package."""

from ...models.common import LayerNorm2d
from ...models.image_encoder import MLPBlock

__all__ = ["LayerNorm2d", "MLPBlock"]
