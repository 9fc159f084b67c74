"""The parts of a model under the paths that users of Meta's package know. Whole ones come from `sam_model_registry`."""

from ...models.image_encoder import ImageEncoderViT
from ...models.mask_decoder import MaskDecoder, TwoWayTransformer
from ...models.prompt_encoder import PromptEncoder
from .sam import Sam, as_sam

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer", "as_sam"]
