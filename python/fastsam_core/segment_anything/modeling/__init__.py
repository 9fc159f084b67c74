"""The parts of a model under the import paths of Meta's package. Build whole models with `sam_model_registry`."""

from ...models.image_encoder import ImageEncoderViT
from ...models.mask_decoder import MaskDecoder, TwoWayTransformer
from ...models.prompt_encoder import PromptEncoder
from .sam import Sam, as_sam

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer", "as_sam"]
