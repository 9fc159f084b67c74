"""MobileSAM's image encoder under the import path of its package."""

from ...models.tiny_vit import TinyViT

__all__ = ["TinyViT"]
