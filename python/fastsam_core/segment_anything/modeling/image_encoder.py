"""The image encoder under Meta's path."""

from ...models.image_encoder import Attention, Block, ImageEncoderViT, PatchEmbed

__all__ = ["Attention", "Block", "ImageEncoderViT", "PatchEmbed"]
