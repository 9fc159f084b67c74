"""The mask decoder under the import path of Meta's package."""

from ...models.common import MLP
from ...models.mask_decoder import MaskDecoder

__all__ = ["MLP", "MaskDecoder"]
