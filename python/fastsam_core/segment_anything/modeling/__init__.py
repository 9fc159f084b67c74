"""The parts of a model, under the import paths and with the arguments of Meta's package."""

from ...models.image_encoder import ImageEncoderViT
from ...models.mask_decoder import MaskDecoder, TwoWayTransformer
from ...models.prompt_encoder import PromptEncoder
from ...models.tiny_vit import TinyViT
from .sam import Sam, as_sam

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TinyViT", "TwoWayTransformer", "as_sam"]
