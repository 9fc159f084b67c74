"""Common layers under the import path of Meta's package."""

from ...models.common import LayerNorm2d, MLPBlock

__all__ = ["LayerNorm2d", "MLPBlock"]
