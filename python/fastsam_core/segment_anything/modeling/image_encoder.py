"""The image encoder under the import path of Meta's package."""

from ...models.image_encoder import Attention, Block, ImageEncoderViT, PatchEmbed

__all__ = ["Attention", "Block", "ImageEncoderViT", "PatchEmbed"]
